"""A corpus rule: called once for each arm with all its answers, because what it asks is no property of one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_finetune.answering.arm_plans import asking_order
from pytest_finetune.judging.rule import Rule, RuleBroken
from pytest_finetune.suite.rules.calling import MESSAGE_CHARS, ArmScores, Score, outcome, refuse_broken
from pytest_finetune.suite.steps.arm_views import as_response

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.suite.run import ExperimentRun

ALL: Final = "all rows"
"""The one row of a corpus rule in the record: all of them."""


def facts(
    run: ExperimentRun, item: pytest.Function, rule: Rule, rows: Rows, arms: Sequence[str]
) -> dict[str, Any]:
    """Run the rule on every arm and return its facts; RuleBroken when it judges nothing."""
    found: dict[str, ArmScores] = {}
    for arm in asking_order(arms):
        found[arm] = _one_arm(run, item, rule, rows, arm)
    refuse_broken(found)
    messages = {arm: scores.messages for arm, scores in found.items() if scores.messages}
    return {
        "outcome": "undecided",
        "rows": [ALL],
        "groups": None,
        "skipped": [ALL] if any(None in scores.scores for scores in found.values()) else [],
        "scores": {arm: found[arm].scores for arm in arms},
        "messages": messages,
    }


def _one_arm(run: ExperimentRun, item: pytest.Function, rule: Rule, rows: Rows, arm: str) -> ArmScores:
    answers = run.answers(arm, rule.suite)
    score = Score()
    own = {
        "responses": [as_response(answers[row.id]) for row in rows],
        "examples": list(rows),
        "score": score,
    }
    names = item._fixtureinfo.argnames

    def call() -> float:
        returned = item.obj(**{name: own.get(name, item.funcargs[name]) for name in names})
        if returned is not None:
            raise RuleBroken(
                f"it returned {returned!r}: a rule asserts, or calls score(x); it returns nothing"
            )
        if score.value is not None and rule.min_rate is None:
            raise RuleBroken("it is graded by score(x), but nothing is asked of the grade: write min_rate")
        return 1.0 if score.value is None else score.value

    value, message, cause = outcome(call)
    found = ArmScores([value], causes=[cause])
    if message is not None:
        found.messages[ALL] = message[:MESSAGE_CHARS]
    return found


def rates(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the record's form: one value for each arm, without an interval, since no rows are counted."""
    return {
        arm: {"passed": value, "total": 1, "rate": value, "interval": None}
        for arm, (value,) in found["scores"].items()
        if value is not None
    }
