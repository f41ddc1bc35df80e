"""What several seeds show together: the interval of the next one, and the recipe's word."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.recipe import HOLDS, NOT_KNOWN, NOT_SHOWN, Recipe, recipe_of
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores
from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.judging.statistics.prediction import seed_gains, seed_margin, student_t


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 31])
@pytest.mark.parametrize("level", [0.9, 0.975, 0.999])
def test_the_quantile_of_t_is_that_of_scipy(level: float, freedom: int) -> None:
    assert student_t(level, freedom) == pytest.approx(student.ppf(level, freedom), rel=1e-9)


def passes(count: int, rows: int = 40) -> tuple[float, ...]:
    return (1.0,) * count + (0.0,) * (rows - count)


def test_seeds_that_agree_leave_what_the_rows_cannot_tell() -> None:
    seeds, base = [passes(30)] * 3, passes(10)
    found = seed_gains(seeds, base, None, 0.025)
    assert found.interval == PairedGain.of(seeds[0], base).interval(0.025)
    assert (found.each, found.spread) == ((0.5, 0.5, 0.5), 0.0)


def test_seeds_that_differ_widen_it_by_the_prediction_interval_of_one_more() -> None:
    counts, base = (24, 30, 36), passes(10)
    found = seed_gains([passes(count) for count in counts], base, None, 0.025)
    margin = student.ppf(0.975, 2) * 0.15 * math.sqrt(1 + 1 / 3)
    assert seed_margin(found.each, 0.025) == pytest.approx(margin)
    low, high = PairedGain.of([sum(c > i for c in counts) / 3 for i in range(40)], base).interval(0.025)
    assert found.interval.low == pytest.approx(max(-1, 0.5 - math.hypot(margin, 0.5 - low)))
    assert found.interval.high == pytest.approx(min(1, 0.5 + math.hypot(margin, high - 0.5)))


@given(st.lists(st.integers(0, 30), min_size=2, max_size=6), st.integers(0, 30))
def test_the_interval_holds_the_mean_and_no_more_than_there_is(counts: list[int], base: int) -> None:
    found = seed_gains([passes(count, 30) for count in counts], passes(base, 30), None, 0.025)
    assert -1 <= found.interval.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.interval.high <= 1
    assert found.mean == pytest.approx((sum(counts) / len(counts) - base) / 30)


def recipe(*counts: int, base: int = 4, min_gain: float = 0.1, guard: tuple[int, ...] = ()) -> Recipe:
    seeds = [f"seed {number}" for number in range(len(counts))]
    rules = [Rule("label", primary=True, min_gain=min_gain), *([Rule("format")] if guard else [])]

    def scores(name: str, of_base: int, given: tuple[int, ...]) -> Scores:
        arms = {"baseline": passes(of_base)} | dict(zip(seeds, map(passes, given), strict=True))
        return Scores(name, tuple(map(str, range(40))), (), arms)

    known = {"label": scores("label", base, counts)} | (
        {"format": scores("format", 40, guard)} if guard else {}
    )
    return recipe_of(rules, known, seeds, DecisionDefaults())


def test_a_recipe_whose_next_seed_gains_holds() -> None:
    found = recipe(31, 33, 32, guard=(40, 25, 38))
    assert found.word == HOLDS
    assert found.sentence.startswith(
        "label: 3 seeds gain +67.5 to +72.5 points over the base model, +70.0 on average; the next one's gain lies "
        "within +"
    )
    assert [spread.rule for spread in found.spreads] == ["label", "format"]
    assert found.spreads[1].spread == pytest.approx(0.375)
    assert found.as_json()["rules"]["format"]["rates"] == [1.0, 0.625, 0.95]  # type: ignore[index]


def test_seeds_further_apart_than_they_gain_are_unstable() -> None:
    found = recipe(5, 20, 4)
    assert found.unstable
    assert found.sentence.endswith("they lie 40 points apart, which is more than the recipe gains")


@pytest.mark.parametrize(
    ("counts", "asked", "said"),
    [
        ((5, 4, 6), 0.1, "it may gain nothing"),  # no seed brings what was asked
        ((16, 17, 15), 0.5, "that is less than the 50 points that were asked"),
    ],
)
def test_a_recipe_that_shows_too_little(counts: tuple[int, ...], asked: float, said: str) -> None:
    found = recipe(*counts, min_gain=asked)
    assert (found.word, found.sentence.rpartition("; ")[2]) == (NOT_SHOWN, said)


def test_a_seed_without_answers_leaves_the_recipe_unknown() -> None:
    rule = Rule("label", primary=True)
    scores = Scores("label", ("a", "b"), (), {"baseline": (0.0, 1.0), "seed 0": (1.0, 1.0)})
    found = recipe_of([rule], {"label": scores}, ["seed 0", "seed 1"], DecisionDefaults())
    assert (found.word, found.spreads) == (NOT_KNOWN, ())
    skipped = Scores("label", ("a", "b"), (), {**scores.arms, "seed 1": (1.0, None)})
    found = recipe_of([rule], {"label": skipped}, ["seed 0", "seed 1"], DecisionDefaults())
    assert "skips 1 row in some arms only" in found.sentence
