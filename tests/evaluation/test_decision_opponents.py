"""Whom the tuned arm must beat: opponents with margins of their own, and arms that are only shown."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pytest_finetune.evaluation.decision import Case, Decision, decide
from pytest_finetune.evaluation.rules import RuleSpec, Scores
from pytest_finetune.experiment import DecisionDefaults

PRIMARY = RuleSpec("priority", primary=True, min_gain=0.1)
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
