"""One trial: an experiment with some settings overridden, which has development rows and no held-out row at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from pytest_finetune.answering.arm_plans import BASELINE, planned
from pytest_finetune.clock import Clock
from pytest_finetune.data.charter import Charter
from pytest_finetune.data.rows import Rows
from pytest_finetune.errors import FinetuneError
from pytest_finetune.experiment import load_experiment
from pytest_finetune.judging.development import NothingToChooseOn
from pytest_finetune.suite.choosing import score_on_dev
from pytest_finetune.suite.evidence import Facts, Outbox
from pytest_finetune.suite.parts import part
from pytest_finetune.suite.steps import answering, data_step, planning
from pytest_finetune.suite.steps.data_step import Data
from pytest_finetune.suite.steps.engine import Engine
from pytest_finetune.suite.steps.replaying import Replaying, asked_of_base
from pytest_finetune.suite.steps.training_step import Adapter, TrainingStep

if TYPE_CHECKING:
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.judging.development import DevScore
    from pytest_finetune.memory.measure import Fit
    from pytest_finetune.memory.plan.plan import MemoryPlan
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.answering import Stored
    from pytest_finetune.suite.steps.unplanned import Unplanned

SHOWN: Final = 20


class HeldOutRefused(FinetuneError):
    """Held-out rows were asked for where something is chosen."""


def whole(rows: Rows) -> Rows:
    """Take all training rows."""
    return rows


class Trial:
    """A training and its score on the development rows, each made once, from the store where it is there.

    It knows no held-out row: none is read, answered or judged, and no look is spent. `taken` chooses the training rows
    that are trained on, all of them unless it says otherwise.
    """

    def __init__(
        self, context: Context, rules: Sequence[pytest.Item], taken: Callable[[Rows], Rows] = whole
    ) -> None:
        if context.jobs is not None:
            jobs = context.jobs.of(lambda: self.context, self._longest_tokens)
            context = dataclasses.replace(context, jobs=jobs)
        self.context = context
        self.experiment = context.experiment
        self.engine = Engine(context)
        self.rules = rules
        self._taken = taken
        if not self.experiment.has_dev_rows:
            raise NothingToChooseOn(self.experiment.file)

    @part
    def charter(self) -> Charter:
        """The charter."""
        return Charter(self.experiment.charter)

    @part
    def contract(self) -> Contract:
        """The data contract, as far as it is about training rows and development rows."""
        return data_step.contract_of_trial(self.experiment, lambda: self.dev_rows)

    @part
    def taught(self) -> data_step.Taught:
        """All training rows, and the development rows."""
        with self.context.clock.spent_on("data"):
            return data_step.taught(self.context, self.contract)

    @part
    def train_rows(self) -> Rows:
        """The training rows of this trial."""
        return self._taken(self.taught.train)

    @property
    def dev_rows(self) -> Rows | None:
        """The rows that this trial is judged on."""
        return self.taught.dev

    def __getattr__(self, name: str) -> NoReturn:
        raise HeldOutRefused(
            f"the primary rule asks for {name}, and where something is chosen there is none: held-out rows, and the "
            "answers to them, judge, and what is chosen on them they can judge no more. Let it take response and "
            "example, which is a development row here"
        )

    @part
    def checked_data(self) -> Data:
        """The rows after their checks; held out is nothing."""
        nothing = Rows((), path=self.experiment.file, split="eval")
        with self.context.clock.spent_on("data"):
            findings = self.contract.findings(self.taught.train, nothing)
        if findings.errors:
            lines = findings.explain(limit=SHOWN)
            pytest.fail("nothing is trained: the rows break the contract\n" + "\n".join(lines), pytrace=False)
        return Data(self.contract, self.train_rows, nothing, self.dev_rows)

    @part
    def training(self) -> TrainingStep:
        """The training of this trial, with its key, not done yet."""
        data = self.checked_data
        return TrainingStep(self.context, self.engine, data, self._fit, lambda: None, self.replaying)

    @part
    def replaying(self) -> Replaying | None:
        """What of the base is taught besides the rows; None where nothing is."""
        return Replaying.of(self.experiment, self.contract, self.train_rows, self._replayed)

    def _replayed(self, prompts: Sequence[Prompted]) -> Stored:
        """Let the base answer what is taught so that it is not forgotten."""
        plan = planned(self.experiment)[BASELINE]
        base = answering.resolve(plan, self.experiment, self.engine, self.contract, None, None)
        return asked_of_base(self.context, self.engine, base, prompts)

    @part
    def adapter(self) -> Adapter:
        """The adapter, trained now or reused."""
        training = self.training
        with self.context.clock.spent_on("training"):
            return training.adapter()

    @part
    def score(self) -> DevScore:
        """What the adapter gets on the development rows."""
        return score_on_dev(self, self.adapter)

    def end(self) -> None:
        """Give the memory of the models back: the next trial loads its own."""
        self.engine.release(sorted(self.engine.runtimes))

    def _longest_tokens(self) -> int | None:
        return planning.longest_taught(self.contract, self.train_rows, self.replaying)

    def _fit(self) -> Fit | None:
        context, budget = self.context, planning.budget_of(self.context)

        def plan() -> MemoryPlan | Unplanned:
            return planning.memory_plan(context, self._longest_tokens(), budget, dict)

        return planning.fit_of(context.store, budget, plan, planned=False)


def trial_of(
    context: Context,
    rules: Sequence[pytest.Item],
    overrides: Mapping[str, Any],
    taken: Callable[[Rows], Rows] = whole,
) -> Trial:
    """Return a trial of the experiment in `context` with more settings overridden; ExperimentError names a wrong one.

    What it records stays with it, and no tracker follows it: there is no verdict to tell.
    """
    own = context.experiment
    changed = {**own.overrides, **overrides}
    experiment = load_experiment(own.root, own.file, changed, name=named(own.name, overrides))
    if seeds := experiment.training.seeds:  # a trial has one
        experiment = experiment.of_seed(overrides.get("training.seed", seeds[0]))
    facts, clock = Facts(experiment.name, Outbox()), Clock(tell=context.line.begin)
    own_context = dataclasses.replace(context, experiment=experiment, facts=facts, clock=clock, trackers=())
    return Trial(own_context, rules, taken)


def named(experiment: str, overrides: Mapping[str, Any]) -> str:
    """Name a trial by what it overrides, as the store lists its adapter.

    >>> named("finetune", {"lora.r": 4, "training.seed": 1})
    'finetune[lora.r=4,training.seed=1]'
    """
    changed = ",".join(f"{key}={value}" for key, value in overrides.items())
    return f"{experiment}[{changed}]" if changed else experiment
