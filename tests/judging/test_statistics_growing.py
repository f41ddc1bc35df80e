"""The e-value of a gain: exact, and however often one looks, too small where there is no gain."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from pytest_finetune.judging.statistics.exact import fewest_fixed
from pytest_finetune.judging.statistics.growing import (
    Evidence,
    Growing,
    batches,
    e_value,
    fewest_fixed_growing,
)
from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.plan import Plan

ALPHA = 0.025


def by_integration(fixed: int, broken: int) -> Fraction:
    """Integrate the likelihood ratio over chances from one half to 1, term by term of the polynomial."""
    total = Fraction(0)
    for k in range(broken + 1):  # p^fixed (1 - p)^broken, expanded
        power = fixed + k + 1
        total += comb(broken, k) * (-1) ** k * (1 - Fraction(1, 2**power)) / power
    return Fraction(2 ** (fixed + broken) * 2 * total)


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 0), (0, 3), (7, 2), (12, 12), (3, 17), (40, 9)])
def test_the_e_value_is_the_mean_likelihood_ratio_exactly(fixed: int, broken: int) -> None:
    assert e_value(fixed, broken) == by_integration(fixed, broken)


@pytest.mark.parametrize("changed", [0, 1, 6, 15])
def test_without_a_gain_its_mean_is_one(changed: int) -> None:
    """Each next row keeps the mean, so it is a martingale where the arms are equal, and falls where one is worse."""
    for fixed in range(changed + 1):
        now, broken = e_value(fixed, changed - fixed), changed - fixed
        fair = (e_value(fixed + 1, broken) + e_value(fixed, broken + 1)) / 2
        worse = Fraction(2, 5) * e_value(fixed + 1, broken) + Fraction(3, 5) * e_value(fixed, broken + 1)
        assert fair == now > worse


@pytest.mark.parametrize("chance", [Fraction(1, 2), Fraction(2, 5)])
def test_the_chance_that_it_is_ever_enough_without_a_gain_is_at_most_alpha(chance: Fraction) -> None:
    """Every path of 60 changed rows, looked at after each of them, enumerated in exact fractions."""
    ways, crossed = {0: Fraction(1)}, Fraction(0)
    for changed in range(1, 61):
        after: dict[int, Fraction] = {}
        for fixed, weight in ways.items():
            for more, share in ((1, chance), (0, 1 - chance)):
                after[fixed + more] = after.get(fixed + more, Fraction(0)) + weight * share
        enough = {fixed for fixed in after if e_value(fixed, changed - fixed) >= 1 / Fraction("0.025")}
        crossed += sum(after.pop(fixed) for fixed in enough)
        ways = after
    assert 0 < crossed <= Fraction("0.025")


def test_the_exact_test_at_every_growth_does_not_hold_its_level() -> None:
    """The planted misuse: 20 rows more, the same test again, ten times."""
    needed, ways, crossed = fewest_fixed(ALPHA, 200), {0: 1.0}, 0.0
    for changed in range(1, 201):
        after: dict[int, float] = {}
        for fixed, weight in ways.items():
            for more in (0, 1):
                after[fixed + more] = after.get(fixed + more, 0.0) + weight / 2
        if changed % 20 == 0:
            crossed += sum(after.pop(fixed) for fixed in list(after) if fixed >= needed[changed])
        ways = after
    assert crossed > 2 * ALPHA


def test_the_table_of_what_is_needed_agrees_with_the_fractions() -> None:
    table = fewest_fixed_growing(ALPHA, 60)
    for changed, fixed in enumerate(table):
        below = e_value(fixed - 1, changed - fixed + 1)
        assert below < 40
        assert fixed == changed + 1 or e_value(fixed, changed - fixed) >= 40
    assert all(a >= b for a, b in zip(table, fewest_fixed(ALPHA, 60), strict=True))


def weighed(gaps: list[float], *ends: int, groups: list[str | None] | None = None) -> Evidence:
    return Evidence.of(gaps, groups, Growing(Levels(), ends))


def test_what_was_enough_at_one_look_stays_enough() -> None:
    rising = [1.0] * 8 + [0.0] * 12
    assert weighed(rising).shown
    fallen = weighed(rising + [-1.0] * 4, 20)
    assert fallen.shown
    assert fallen.e < 40 < fallen.highest
    assert fallen.words == "e = 1.1 after 24 rows (it was 56.8); 40 are needed"
    assert not weighed(rising + [-1.0] * 4).shown, "nobody looked before the rows that speak against it"


def test_it_says_how_many_rows_more_would_be_enough() -> None:
    open_ = weighed([1.0] * 9 + [-1.0] * 2 + [0.0] * 29)
    assert (open_.shown, open_.rows) == (False, 40)
    assert open_.more is not None
    factor = (40 + open_.more) / 40
    assert e_value(round(9 * factor), round(2 * factor)) >= 30, "about enough, by whole rows"
    assert e_value(round(9 * factor) - 1, round(2 * factor) + 1) < 40
    assert weighed([1.0, -1.0] * 20).more is None
    assert weighed([0.0] * 20).more is None
    assert weighed([]).more is None


def test_graded_rows_are_bet_on_by_their_size_and_whole_ones_as_passes() -> None:
    passes = [1.0] * 9 + [-1.0] * 3
    graded = weighed([0.999999] * 9 + [-0.999999] * 3)
    assert graded.e == pytest.approx(float(e_value(9, 3)), rel=1e-2)
    assert weighed(passes).e == pytest.approx(float(e_value(9, 3)))
    assert weighed([0.1] * 9 + [-0.1] * 3).e < graded.e
    assert weighed([1.0] * 5000).e == 1e12, "no infinity in a record"


def test_nothing_is_bet_on_rows_that_join_a_group_that_was_judged_before() -> None:
    groups = ["a", "a", "b", None, "a", "c", "c"]
    found = batches([1.0, 0.0, -1.0, 1.0, 1.0, 1.0, -1.0], groups, (4,))
    assert found == [(0.5, -1.0, 1.0), (0.0,)]


def test_the_plan_tells_the_price_of_adding_rows() -> None:
    fixed, growing = Plan(100, 0.1), Plan(100, 0.1, Levels(grow=True))
    assert growing.smallest is not None
    assert fixed.smallest is not None
    assert growing.smallest > fixed.smallest
    assert growing.proves.startswith("100 held-out rows can prove a gain of ")
    assert (
        f"rows may be added, which has its price: {100 * fixed.smallest:.0f} if their number is fixed"
        in growing.proves
    )
    assert (Levels(grow=True).fewest_rows, Levels().fewest_rows) == (8, 6)
    assert growing.enough is not None
    assert fixed.enough is not None
    assert growing.enough > fixed.enough
