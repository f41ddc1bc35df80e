"""The arms of one experiment: what each of them is, and its answers, each asked for once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from pytest_finetune.answering.arm_plans import BASELINE, TRIVIAL, TUNED, plan_facts, planned, repeated
from pytest_finetune.answering.prompts import arm_prompts
from pytest_finetune.judging.scores import Tally
from pytest_finetune.suite.choosing import answered_on_dev
from pytest_finetune.suite.parts import Parts, part
from pytest_finetune.suite.rules.judges import judging_of
from pytest_finetune.suite.rules.rule_items import early_primary, primary_of, scores_on
from pytest_finetune.suite.rules.rule_marks import rule_of
from pytest_finetune.suite.steps import answering, candidates, external_arms
from pytest_finetune.suite.steps.answering import ResolvedArm, Stored
from pytest_finetune.suite.steps.drifting import Drifting
from pytest_finetune.suite.steps.null_adapter import null_answered
from pytest_finetune.suite.steps.replaying import asked_of_base
from pytest_finetune.suite.steps.seeds import OnDevelopment

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.arm_plans import ArmPlan
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.data.trivial import Trivial
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.data_step import Data
    from pytest_finetune.suite.steps.engine import Engine
    from pytest_finetune.suite.steps.external_arms import Outside
    from pytest_finetune.suite.steps.seeds import Asked, Seeds
    from pytest_finetune.suite.steps.training_step import Adapter


class _Run(Protocol):
    """What the arms rest on: rows, adapter and rules of one experiment."""

    @property
    def context(self) -> Context: ...
    @property
    def experiment(self) -> Experiment: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def rules(self) -> Sequence[pytest.Item]: ...
    @property
    def contract(self) -> Contract: ...
    @property
    def trivial_opponent(self) -> Trivial | None: ...
    @property
    def train_rows(self) -> Rows: ...
    @property
    def dev_rows(self) -> Rows | None: ...
    @property
    def neutral_prompts(self) -> Rows: ...
    @property
    def checked_data(self) -> Data: ...
    @property
    def adapter(self) -> Adapter: ...
    @property
    def seeds(self) -> Seeds: ...

    def rows_of(self, suite: str | None) -> Rows: ...


class Asking:
    """Asks the arms of a run."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._context, self._experiment, self._engine = run.context, run.experiment, run.engine
        self._outside: Parts[str, Outside] = Parts(lambda arm: f"arms.{arm}")
        self._resolved: dict[str, ResolvedArm] = {}
        self._answers: Parts[tuple[str, str | None], Mapping[str, Answer]] = Parts(
            lambda key: f"answers of {key[0]}" + (f" on {key[1]}" if key[1] else "")
        )

    @cached_property
    def plans(self) -> Mapping[str, ArmPlan]:
        """The arms by name; what the contract and the training rows add to those of the experiment is recorded."""
        constrained = answering.constrained_unasked(self._experiment, self._run.contract, self._engine)
        plans = planned(self._experiment, self._run.trivial_opponent, constrained=constrained)
        for name in plans.keys() - planned(self._experiment).keys():
            self._context.record(("planned_arms", name), plan_facts(plans)[name])
        return plans

    def answers(self, arm: str, suite: str | None = None, rows: Rows | None = None) -> Mapping[str, Answer]:
        """Return an arm's answers by row id, from the store or from the model.

        `rows` are those of a suite that stands in no file, such as held-out rows in other words.
        """
        found = self._answers.once((arm, suite), lambda: self._answered(self.plans[arm], suite, rows))
        if self._experiment.drift.measure:
            with self._context.clock.spent_on("drift"):
                self.drifting.ask_along(arm)
        return found

    def _answered(self, plan: ArmPlan, suite: str | None, rows: Rows | None) -> Mapping[str, Answer]:
        """Let an arm answer, and record it."""
        _ = self._run.checked_data
        if plan.model in TRIVIAL:
            return self._without_model(plan, suite, self._run.rows_of(suite) if rows is None else rows)
        with self._context.clock.spent_on(f"answers of {answering.label(plan.name, suite)}"):
            return self._asked(plan, suite, rows)

    def _asked(self, plan: ArmPlan, suite: str | None, rows: Rows | None) -> Mapping[str, Answer]:
        """Ask the arm's model, or take the answers that another tool brought."""
        outside = self.outside_of(plan)
        if outside is not None and outside.answers is not None:
            stored = answering.imported(self._context, plan, outside.answers)
            answering.record_answers(self._context, plan, stored, outside.facts)
            return stored.answers
        prompts = self._prompts(plan, self._run.rows_of(suite) if rows is None else rows)
        arm = self.resolve(plan)
        before = self._sizes_before if suite is None else ()
        stored = answering.answered(self._context, self._engine, arm, prompts, suite, before)
        answering.record_answers(self._context, plan, stored, arm.facts, suite, thinking_off=arm.thinking_off)
        return stored.answers

    def _without_model(self, plan: ArmPlan, suite: str | None, rows: Rows) -> Mapping[str, Answer]:
        trivial = self._run.trivial_opponent
        assert trivial is not None
        answers = answering.without_model(trivial, rows)
        stored = answering.imported(self._context, plan, answers)
        told = {"described": trivial.described, "says": trivial.says}
        answering.record_answers(self._context, plan, stored, told, suite)
        return stored.answers

    def _prompts(self, plan: ArmPlan, rows: Rows) -> tuple[Prompted, ...]:
        outside = self.outside_of(plan)
        prompt = ((outside and outside.experiment) or self._experiment).prompt
        if plan.prompts == "candidate":
            return arm_prompts(rows, candidates.with_template(prompt, self.best_prompt))
        if plan.prompts == "few-shot":
            shots = answering.few_shots(self._context, self._run.train_rows, self._run.contract.label_field)
            return arm_prompts(rows, prompt, shots)
        return arm_prompts(rows, prompt)

    def outside_of(self, plan: ArmPlan) -> Outside | None:
        """Return what an arm brings from outside, verified; None for the experiment's own arms."""
        if plan.source is None:
            return None
        project = external_arms.Project(
            self._experiment,
            self._context.store,
            lambda: self._engine.the_base_model,
            self._run.rows_of(None),
        )
        return self._outside.once(plan.name, lambda: external_arms.outside_of(project, plan))

    def resolve(self, plan: ArmPlan) -> ResolvedArm:
        """Return an arm with everything that its answers depend on, found out once."""
        if plan.name not in self._resolved:
            outside = self.outside_of(plan)
            adapter = self._tuned(plan) if plan.model == "tuned" else outside.adapter if outside else None
            self._resolved[plan.name] = self._resolve(plan, adapter, outside)
        return self._resolved[plan.name]

    def _resolve(self, plan: ArmPlan, adapter: Path | None, outside: Outside | None = None) -> ResolvedArm:
        return answering.resolve(plan, self._experiment, self._engine, self._run.contract, adapter, outside)

    def _tuned(self, plan: ArmPlan) -> Path:
        """Return the adapter of the arm: that of its seed, else the one that is judged."""
        judged = self._run.adapter  # a failure to train any of them closes the gate
        return judged.path if plan.seed is None else self._run.seeds.paths[plan.seed]

    def on_development(self) -> Asked | None:
        """Return what scores an adapter on the development rows; None where the primary rule cannot be asked there."""
        rows, item = self._run.dev_rows, early_primary(self._run.rules)
        if rows is None or item is None:
            return None

        def scored(adapter: Path) -> OnDevelopment:
            _, scores, key = answered_on_dev(self._run, rows, item, adapter)
            return OnDevelopment(rule_of(item).name, Tally.of(scores), key)

        return scored

    @part
    def best_prompt(self) -> str:
        """The best of the hand-written prompts by the primary rule, on development rows where there are any."""
        item = primary_of(self._run.rules)
        return candidates.best_prompt(
            self._context,
            self._run.train_rows if self._run.dev_rows is None else self._run.dev_rows,
            lambda prompts: self._ask(BASELINE, prompts),
            item.name.removeprefix("test_"),
            lambda rows, answers: scores_on(
                item, rows, answers, judging_of(self._context, item, rule_of(item))
            ),
        )

    def _ask(self, arm: str, prompts: Sequence[Prompted]) -> Stored:
        """Let an arm answer other prompts than the held-out rows."""
        return answering.answered(self._context, self._engine, self.resolve(self.plans[arm]), prompts)

    @part
    def noise(self) -> tuple[Mapping[str, Answer], ...]:
        """The further answers of the base to the held-out rows."""
        first = self.answers(BASELINE)
        arms = [self.resolve(plan) for plan in repeated(self._experiment)]
        with self._context.clock.spent_on("noise runs"):
            rows, before = self._run.rows_of(None), self._sizes_before
            return answering.noise(self._context, self._engine, arms, rows, first, before)

    @cached_property
    def _sizes_before(self) -> tuple[int, ...]:
        """How many of the held-out rows there were at earlier looks, where rows may be added."""
        if not self._experiment.decision.grow:
            return ()
        return self._context.store.looks.sizes_before([row.digest for row in self._run.rows_of(None)])

    def replayed(self, prompts: Sequence[Prompted]) -> Stored:
        """Let the base answer what is taught so that it is not forgotten."""
        return asked_of_base(self._context, self._engine, self.resolve(self.plans[BASELINE]), prompts)

    @cached_property
    def drifting(self) -> Drifting:
        """The measure of how far the tuned model has moved on neutral prompts."""

        def ask(arm: str, prompts: Sequence[Prompted]) -> Stored:
            greedy = self.resolve(self.plans[arm]).greedy()
            return answering.answered(self._context, self._engine, greedy, prompts, "neutral prompts")

        def ask_null(prompts: Sequence[Prompted]) -> Stored | None:
            tuned = self.resolve(self.plans[TUNED]).greedy()
            return null_answered(self._context, self._engine, tuned, prompts)

        runtime = self._experiment.runtimes[0]
        rows = self._run.neutral_prompts
        return Drifting(self._context, rows, ask, lambda: self._engine.runtime(runtime), ask_null)
