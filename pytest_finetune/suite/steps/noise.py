"""The noise floor: the base answers again, and a row whose score differs between its runs is never fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_finetune.answering.arm_plans import BASELINE, repeated
from pytest_finetune.answering.prompts import arm_prompts
from pytest_finetune.suite.steps.answering import answered

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.suite.run import ExperimentRun


def noise_of(run: ExperimentRun) -> tuple[Mapping[str, Answer], ...]:
    """Return the base's answers of every further run, each asked once and stored under its number."""
    first = run.answers(BASELINE)
    prompts = arm_prompts(run.eval_rows, run.experiment.prompt)
    found = []
    for plan in repeated(run.experiment):
        stored = answered(run, plan, prompts)
        changed = [id_ for id_, answer in stored.answers.items() if answer.response != first[id_].response]
        facts = {"run": plan.run, "outputs_key": stored.key, "reused": stored.reused, "changed": changed}
        run.note(("noise", str(plan.run)), facts)
        found.append(stored.answers)
    return tuple(found)
