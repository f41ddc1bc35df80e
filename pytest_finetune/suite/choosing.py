"""The development rows: an adapter answers them, and the primary rule scores it there, so that one can be chosen.

The answers are kept like any others. Nothing is recorded, no held-out row is read, and no look is spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pytest_finetune.answering.arm_plans import TUNED, planned
from pytest_finetune.answering.prompts import arm_prompts
from pytest_finetune.data.turn_by_turn import turn_by_turn
from pytest_finetune.judging.development import DevScore, NothingToChooseOn
from pytest_finetune.suite.rules.judges import judging_of
from pytest_finetune.suite.rules.rule_items import primary_of, scores_on
from pytest_finetune.suite.rules.rule_marks import rule_of
from pytest_finetune.suite.steps import answering

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.engine import Engine
    from pytest_finetune.suite.steps.training_step import Adapter


class Chosen(Protocol):
    """What scoring an adapter on the development rows may ask of a run."""

    @property
    def context(self) -> Context: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def contract(self) -> Contract: ...
    @property
    def rules(self) -> Sequence[pytest.Item]: ...
    @property
    def dev_rows(self) -> Rows | None: ...


class Answered(NamedTuple):
    """The development rows as they were asked, the primary rule's score of each answer, and the answers' key."""

    rows: Sequence[Row]
    scores: Sequence[float | None]
    key: str


def score_on_dev(run: Chosen, adapter: Adapter) -> DevScore:
    """Return what an adapter gets on the development rows; NothingToChooseOn where there are none."""
    if run.dev_rows is None:
        raise NothingToChooseOn(run.context.experiment.file)
    item = primary_of(run.rules, "adapters are chosen")
    rows, scores, key = answered_on_dev(run, run.dev_rows, item, adapter.path)
    return DevScore(
        rule=rule_of(item).name,
        rows=tuple(row.id for row in rows),
        scores=tuple(scores),
        loss=adapter.dev_loss,
        adapter=adapter.key,
        answers=key,
        groups=tuple(row.group for row in rows),
    )


def answered_on_dev(run: Chosen, rows: Rows, item: pytest.Function, adapter: Path) -> Answered:
    """Let an adapter answer as the tuned arm does, and score it by a rule.

    `adapter` is any on the base of the run's experiment, such as that of another seed.
    """
    context, experiment = run.context, run.context.experiment
    asked = turn_by_turn(rows) if experiment.prompt.turns == "each" else rows
    plan = planned(experiment)[TUNED]
    arm = answering.resolve(plan, experiment, run.engine, run.contract, adapter, None)
    with context.clock.spent_on("answers on the development rows"):
        prompts = arm_prompts(asked, experiment.prompt)
        stored = answering.answered(context, run.engine, arm, prompts, "development rows")
    judging = judging_of(context, item, rule_of(item))
    return Answered(asked, scores_on(item, asked, stored.answers, judging), stored.key)
