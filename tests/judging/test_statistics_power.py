from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.judging.statistics.plan import Plan
from pytest_finetune.judging.statistics.power import (
    chance_to_beat,
    chance_to_exclude,
    discordance_after,
    discordance_before,
    rows_to_settle,
    smallest_gain,
)
from pytest_finetune.judging.statistics.sample import Sample

ALPHA = 0.025


def enumerated(n: int, gain: float, discordance: float, judge: Callable[[PairedGain], bool]) -> float:
    """Return the chance of a judgement by listing every number of fixed and broken rows."""
    up, down = (discordance + gain) / 2, (discordance - gain) / 2
    total = 0.0
    for fixed, broken in itertools.product(range(n + 1), repeat=2):
        same = n - fixed - broken
        if same < 0:
            continue
        ways = math.comb(n, fixed) * math.comb(n - fixed, broken)
        chance = ways * up**fixed * down**broken * (1 - discordance) ** same
        scores = [1.0] * fixed + [0.0] * (broken + same), [0.0] * fixed + [1.0] * broken + [0.0] * same
        if chance > 1e-9 and judge(PairedGain.of(*scores)):
            total += chance
    return total


@pytest.mark.parametrize(
    ("gain", "discordance", "margin"), [(0.0, 0.3, 0.0), (0.1, 0.2, 0.1), (-0.1, 0.6, 0.05)]
)
@pytest.mark.parametrize("n", [7, 25, 40])
def test_the_chances_are_those_of_every_possible_outcome(
    gain: float, discordance: float, margin: float, n: int
) -> None:
    beat = enumerated(n, gain, discordance, lambda pair: pair.beats(margin, ALPHA))
    exclude = enumerated(n, gain, discordance, lambda pair: pair.excludes(margin, ALPHA))
    assert chance_to_beat(n, gain, discordance, margin, ALPHA) == pytest.approx(beat, abs=2e-5)
    assert chance_to_exclude(n, gain, discordance, margin, ALPHA) == pytest.approx(exclude, abs=2e-5)


DOCUMENTED = (Path(__file__).parents[2] / "docs" / "decision.md").read_text(encoding="utf-8")


def documented(heading: str) -> list[list[str]]:
    """Return the cells of the table in docs/decision.md that has this heading."""
    lines = DOCUMENTED[DOCUMENTED.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("row", documented("true gain, differing, min_gain"), ids=lambda row: row[0])
def test_keep_iterate_and_discard_come_as_often_as_documented(row: list[str]) -> None:
    gain, discordance, margin = map(float, row[0].split(","))
    found = []
    for n in (20, 50, 100, 200, 400):
        keep = 100 * chance_to_beat(n, gain, discordance, margin, ALPHA)
        discard = 100 * chance_to_exclude(n, gain, discordance, margin, ALPHA)
        found.append(f"{keep:.0f}/{100 - keep - discard:.0f}/{discard:.0f}")
    assert found == row[1:]


@pytest.mark.parametrize(
    "row", documented("true gain | rows differing | first n with power 0.8"), ids="-".join
)
def test_the_first_size_with_power_is_as_documented(row: list[str]) -> None:
    gain, discordance, first = float(row[0]), float(row[1]), int(row[2])
    chances = [chance_to_beat(n, gain, discordance, 0.0, ALPHA) for n in range(1, first + 1)]
    assert chances[-1] >= 0.8
    assert max(chances[:-1]) < 0.8


def test_a_true_gain_of_exactly_the_margin_is_kept_half_of_the_time_at_any_size() -> None:
    for n in (200, 1000, 4000):
        assert chance_to_beat(n, 0.1, 0.2, 0.1, ALPHA) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("gain", "discordance", "margin"), [(0.15, 0.3, 0.05), (0.0, 0.3, 0.1), (-0.1, 0.4, 0.05)]
)
def test_the_size_that_settles_a_question_settles_it_from_there_on(
    gain: float, discordance: float, margin: float
) -> None:
    n = rows_to_settle(gain, discordance, margin, ALPHA)
    chance = chance_to_beat if gain > margin else chance_to_exclude
    assert n is not None
    assert all(chance(size, gain, discordance, margin, ALPHA) >= 0.8 for size in range(n, n + 51))
    assert chance(n - 1, gain, discordance, margin, ALPHA) < 0.8


def test_no_size_settles_a_gain_near_the_margin_and_none_above_five_thousand_is_promised() -> None:
    assert rows_to_settle(0.06, 0.3, 0.05, ALPHA) is None
    assert rows_to_settle(0.028, 0.9, 0.05, ALPHA) is None
    assert chance_to_exclude(5000, 0.028, 0.9, 0.05, ALPHA) < 0.8


def test_long_ranges_are_interpolated_without_a_visible_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_finetune.judging.statistics import power

    case = (600, 0.02, 0.3, 0.1, ALPHA)
    fast = chance_to_exclude(*case)
    monkeypatch.setattr(power, "_EXACT_RANGE", 10**9)
    assert fast == pytest.approx(chance_to_exclude(*case), abs=1e-6)


def test_the_smallest_gain_shrinks_with_more_rows_and_grows_with_looks() -> None:
    def discordance(gain: float) -> float:
        return max(gain, 0.3)

    sizes = [smallest_gain(n, discordance, ALPHA) for n in (20, 50, 100, 200, 400)]
    assert all(size is not None for size in sizes)
    assert sizes == sorted(sizes, key=lambda size: -(size or 0))
    first, fifth = (smallest_gain(100, discordance, Levels(look=k).claim) for k in (1, 5))
    assert first is not None
    assert fifth is not None
    assert fifth > first
    assert smallest_gain(5, discordance, ALPHA) is None
    assert smallest_gain(0, discordance, ALPHA) is None


def test_discordance_is_planned_from_the_base_rate_and_measured_with_caution() -> None:
    assert discordance_before(0.1) == 0.5
    assert discordance_before(0.8) == 0.8
    assert discordance_before(0.2, base_rate=0.0) == pytest.approx(0.2)
    assert discordance_before(0.1, base_rate=0.5) == pytest.approx(0.5 * 0.4 + 0.6 * 0.5)
    observed = Sample.of([1.0] * 5 + [-1.0] * 5 + [0.0] * 90)
    assert 0.1 < discordance_after(observed) < 0.16
    assert discordance_after(Sample.of([1.0] * 10)) == 1.0
    assert discordance_after(Sample.of([0.0] * 20)) == pytest.approx(1 - 0.2 ** (1 / 20))


def test_the_plan_says_what_a_file_can_show() -> None:
    line = Plan(160, 0.15, observed=0.3).line
    assert line == "160 held-out rows can prove a gain of 12 points or more"
    assert Plan(160, 0.15, observed=0.3).warning is None


def test_the_plan_warns_when_the_gate_will_probably_not_open() -> None:
    warning = Plan(160, 0.05).warning
    assert warning is not None
    assert warning.startswith(
        "160 held-out rows can prove a gain of 16 points or more; to prove 5 points you need about 1,606. "
    )
    assert warning.endswith(
        "A true gain of 5 points would be proven in 12% of runs, 80% are planned for (look 1, alpha 0.025, "
        "50% of rows differing): write more held-out rows or ask for a larger gain"
    )


def test_the_plan_says_when_keep_is_impossible() -> None:
    impossible = Plan(3, 0.1)
    assert not impossible.possible
    assert impossible.line == (
        "keep impossible: 3 held-out rows cannot prove any gain; at least 6 "
        "are needed, even if every one is fixed"
    )
    assert impossible.warning == impossible.line
    assert Plan(8, 0.1, Levels(look=5)).line.endswith("at least 10 are needed, even if every one is fixed")
    assert Plan(1, 0.1).line.startswith("keep impossible: 1 held-out row cannot")
