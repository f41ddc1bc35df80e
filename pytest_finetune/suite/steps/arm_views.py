"""The arms as tests see them: their answers, and their scores under the rules that ran."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.answering.arm_plans import PROMPTED
from pytest_finetune.answering.response import Response
from pytest_finetune.record.case import score_of
from pytest_finetune.suite.arm_view import Arm

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.suite.arm_view import Arm
    from pytest_finetune.suite.run import ExperimentRun


def view_of(run: ExperimentRun, name: str) -> Arm:
    """Return the view of an arm that tests take; a name that is no arm fails the test with those that are."""
    if name not in run.arms:
        pytest.fail(_no_arm(name, run.arms), pytrace=False)
    responses = {id_: as_response(answer) for id_, answer in run.answers(name).items()}
    return Arm(name, run.arms[name].runtime, responses, partial(_score, run))


def as_response(answer: Answer) -> Response:
    """Return an answer as rules see it."""
    return Response(answer.response, answer.tokens, answer.seconds, answer.stopped)


def _no_arm(name: str, known: Iterable[str]) -> str:
    if name == PROMPTED:
        return "there is no prompt-only arm: set prompt.few_shot in the experiment"
    return (
        f"there is no arm {name!r}; known: {', '.join(known)}: name another one under arms in the experiment"
    )


def _score(run: ExperimentRun, arm: str, rule: str) -> Any:
    rules = run.tree().get("rules", {})
    if rule not in rules:
        known = ", ".join(rules) or "none"
        pytest.fail(f"{arm}[{rule!r}]: there is no rule of that name; known: {known}", pytrace=False)
    outcome = rules[rule].get("outcome")
    if outcome in {None, "not run", "error"}:
        state = "ended as an error" if outcome == "error" else "was not run in this session"
        pytest.fail(f"{arm}[{rule!r}]: the rule {state}, so it has no score", pytrace=False)
    return score_of(run.tree(), rule, arm)
