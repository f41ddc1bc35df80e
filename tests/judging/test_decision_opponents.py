"""Whom the tuned arm must beat: opponents with margins of their own, and arms that are only shown."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import Decision, decide
from pytest_finetune.judging.evidence import NextChange
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores

PRIMARY = Rule("priority", primary=True, min_gain=0.1)
ROWS = 100


def first(passing: int) -> tuple[float, ...]:
    return tuple(float(i < passing) for i in range(ROWS))


def judged(
    passing: Mapping[str, int], *, shown: tuple[str, ...] = (), margins: Mapping[str, float] | None = None
) -> Decision:
    """Judge arms that pass on their first rows."""
    rows = tuple(f"r{i}" for i in range(ROWS))
    scores = Scores("priority", rows, arms={arm: first(count) for arm, count in passing.items()})
    return decide(
        Case(
            rules=(PRIMARY,),
            scores={"priority": scores},
            defaults=DecisionDefaults(),
            arms=tuple(passing),
            shown=shown,
            margins=margins or {},
            answers_differ=True,
            delta_nonzero=True,
        )
    )


def test_an_opponent_with_a_margin_of_zero_must_be_beaten_but_not_by_much() -> None:
    arms = {"baseline": 20, "tuned": 95, "champion": 88}
    assert judged(arms).verdict == "iterate"
    kept = judged(arms, margins={"champion": 0.0})
    assert kept.keep
    assert any("champion" in reason for reason in kept.reasons)


def test_an_opponent_that_is_better_discards_however_much_the_base_is_beaten() -> None:
    decision = judged({"baseline": 20, "tuned": 80, "champion": 95}, margins={"champion": 0.0})
    assert decision.verdict == "discard"


OVERFITTED = NextChange("train less", "20 of 30 wrong answers repeat a training output word for word")


def test_an_adapter_that_lost_to_the_champion_leaves_it_in_service() -> None:
    decision = judged({"baseline": 20, "tuned": 80, "champion": 95}).advised(OVERFITTED)
    assert decision.verdict == "discard"
    assert decision.instead == "champion"
    assert decision.next_change is not None
    assert (
        decision.next_change.change
        == "serve the champion: it is as good as the adapter on these rows, or better"
    )
    assert "95 with the champion" in decision.next_change.because
    assert decision.next_change.rows[:2] == ("r80", "r81")


def test_of_several_champions_the_best_is_served_though_the_base_is_good_enough_too() -> None:
    arms = {"baseline": 92, "tuned": 92, "in_production": 94, "challenger": 99}
    decision = judged(arms).advised(OVERFITTED)
    assert decision.next_change is not None
    assert decision.next_change.change.startswith("serve arm 'challenger': ")


def test_a_base_that_does_as_well_as_the_champion_is_served_rather_than_it() -> None:
    decision = judged({"baseline": 95, "tuned": 95, "champion": 95})
    assert decision.instead is None
    assert decision.next_change is not None
    assert decision.next_change.change.endswith("prompting is enough")


def test_an_adapter_that_lost_to_a_prompt_still_hears_what_went_wrong() -> None:
    decision = judged({"baseline": 20, "tuned": 80, "prompted": 95})
    assert decision.next_change is not None
    assert decision.next_change.change.endswith("prompting is enough")
    assert decision.advised(OVERFITTED).next_change == OVERFITTED


@pytest.mark.parametrize("count", [10, 80, 95, 100])
def test_an_arm_that_is_only_shown_changes_no_verdict_and_is_compared(count: int) -> None:
    alone = judged({"baseline": 20, "tuned": 80})
    decision = judged({"baseline": 20, "tuned": 80, "larger": count}, shown=("larger",))
    assert (decision.verdict, decision.reasons) == (alone.verdict, alone.reasons)
    assert [one.against for one in decision.comparisons] == ["baseline", "larger"]


@pytest.mark.parametrize("shown", [(), ("larger",)])
def test_an_arm_without_scores_leaves_it_undecided_opponent_or_not(shown: tuple[str, ...]) -> None:
    rows = tuple(f"r{i}" for i in range(ROWS))
    scores = Scores("priority", rows, arms={"baseline": first(20), "tuned": first(80)})
    case = Case(
        rules=(PRIMARY,),
        scores={"priority": scores},
        defaults=DecisionDefaults(),
        arms=("baseline", "tuned", "larger"),
        shown=shown,
        answers_differ=True,
    )
    decision = decide(case)
    assert decision.undecided
    assert "no answers of" in decision.reasons[0]
    assert "larger" in decision.reasons[0]
