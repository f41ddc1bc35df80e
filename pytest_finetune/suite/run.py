"""One experiment's way through the rooms: rows, plan, adapter, answers, scores, decision, each made once on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pytest_finetune.answering.arm_plans import TUNED, planned, unconstrained
from pytest_finetune.data.charter import Charter
from pytest_finetune.suite.evidence import Fact, grow, remember
from pytest_finetune.suite.markers import ExperimentRef, Stage
from pytest_finetune.suite.rules.calling import PerRow
from pytest_finetune.suite.steps import (
    answering,
    arm_views,
    data_step,
    drifting,
    engine,
    header,
    planning,
    training_step,
)
from pytest_finetune.suite.steps.candidates import best_prompt_of
from pytest_finetune.suite.steps.deciding import decided, matches, settled_look
from pytest_finetune.suite.steps.noise import noise_of
from pytest_finetune.suite.steps.step import Parts, step

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.arm_plans import ArmPlan
    from pytest_finetune.answering.runtimes import Runtime
    from pytest_finetune.data.charter import Charter
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.judging.decision import Decision
    from pytest_finetune.judging.drift import Drift
    from pytest_finetune.judging.runtime_match import RuntimeMatch
    from pytest_finetune.memory.hardware.detect import Budget
    from pytest_finetune.memory.plan.plan import MemoryPlan
    from pytest_finetune.suite.arm_view import Arm
    from pytest_finetune.suite.session import FinetuneSession
    from pytest_finetune.suite.steps.engine import BaseModel
    from pytest_finetune.suite.steps.training_step import Adapter

T = TypeVar("T")


class ExperimentRun:
    """The lazy cache of one experiment; fixtures are views of it."""

    def __init__(self, session: FinetuneSession, ref: ExperimentRef, experiment: Experiment) -> None:
        self.session = session
        self.ref = ref
        self.experiment = experiment
        self.facts: dict[str, Fact] = {}
        self.runtimes: set[str] = set()
        self.derived: dict[str, Callable[[], Rows]] = {}
        self._parts = Parts()

    def begin(self) -> None:
        """Put down, once, what is known before anything runs."""
        if not self.facts:
            for part, value in header.facts(self.session, self.ref, self.experiment):
                self.note(part, value)

    def note(self, part: Sequence[str], value: object) -> None:
        """Establish a fact of this experiment's record."""
        fact = Fact(self.experiment.name, tuple(part), value)
        remember(self.facts, fact)
        self.session.outbox.put(fact)

    def tree(self) -> dict[str, Any]:
        """Return what the record of this experiment holds so far."""
        return grow(self.facts.values())

    def close_gate(self, stage: Stage, by: str, because: str) -> None:
        """Close the later stages of this experiment; the first failure is the one that counts."""
        if self.session.gate.close(self.ref, stage, by, because):
            self.note(("gate",), {"stage": stage.word, "by": by, "because": because})

    def not_judged(self, rule: str, because: str) -> None:
        """Put down why a rule never ran, unless a mistake in it was known before."""
        self.begin()
        if not self.tree()["rules"][rule]["reasons"]:
            self.note(("rules", rule), {"reasons": [because]})

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Make a part once. What a user can mend fails the asking test with its message and no traceback."""
        return self._parts.once(name, make)

    def made(self, name: str) -> bool:
        """Tell whether a part is there already."""
        return name in self._parts

    @step
    def charter(self) -> Charter:
        """The charter."""
        return Charter(self.experiment.charter)

    @step
    def contract(self) -> Contract:
        """The data contract, with the checks that plugins add."""
        return data_step.contract_of(self)

    @step
    def train_rows(self) -> Rows:
        """The training rows."""
        return self.read(self.experiment.paths.train_file, "train")

    @step
    def eval_rows(self) -> Rows:
        """The held-out rows."""
        return self.read(self.experiment.paths.eval_file, "eval")

    def read(self, relative: str, split: str) -> Rows:
        """Read a file of rows; `train_rows`, `eval_rows` and `rows_of` do it once for each."""
        return data_step.read(self, relative, split)

    def rows_of(self, suite: str | None) -> Rows:
        """Return the held-out rows of a suite; None is `eval_file`."""
        return self.eval_rows if suite is None else data_step.suite_of(self, suite)

    @step
    def checked_data(self) -> bool:
        """The built-in contract check: it runs before anything is trained or asked, whatever tests were selected."""
        data_step.check(self)
        return True

    @step
    def memory_plan(self) -> MemoryPlan:
        """The predicted peak of the training."""
        return planning.plan_of(self)

    @step
    def budget(self) -> Budget:
        """What is here, or what ``--finetune-budget`` names."""
        return planning.budget_of(self)

    def budget_or_skip(self) -> Budget:
        """Return the budget; skip, with the plan printed, where there is no card to compare with."""
        if not self.budget.comparable:
            pytest.skip(f"{self.memory_plan!r}; not compared: {self.budget.incomparable_because}")
        return self.budget

    @property
    def runtime(self) -> Runtime:
        """The first runtime of the experiment, in which the decision is made."""
        return self.runtime_named(self.experiment.runtimes[0])

    def runtime_named(self, name: str) -> Runtime:
        """Return a runtime of the experiment; it loads its model when it is first asked."""
        self.runtimes.add(name)
        return self.once(f"runtime {name}", lambda: engine.runtime_for(self, name))

    def rest(self, names: Iterable[str]) -> None:
        """Let runtimes that were made give back their memory, or stop their server."""
        for made in [self._parts.get(f"runtime {name}") for name in names]:
            if made is not None:
                made.release()

    @step
    def base_model(self) -> BaseModel:
        """The base model, for tests that ask it themselves."""
        return engine.BaseModel(self.runtime, unconstrained(self.experiment))

    @property
    def adapter(self) -> Adapter:
        """The adapter, trained now or reused; a failure closes the stages after the training."""
        try:
            return self.once("the training", lambda: training_step.adapter_of(self))
        except BaseException as error:
            if isinstance(error, Exception | pytest.fail.Exception | KeyboardInterrupt):
                first = (str(error) or type(error).__name__).splitlines()[0]
                by = self.session.item.nodeid if self.session.item else "the training"
                self.close_gate(Stage.TRAINING, by, first)
            raise

    @property
    def arms(self) -> Mapping[str, ArmPlan]:
        """The arms of this experiment, by name."""
        return planned(self.experiment)

    def answers(self, arm: str, suite: str | None = None) -> Mapping[str, Answer]:
        """Return an arm's answers by row id, from the store or from the model."""
        return self.answers_to(self.arms[arm], suite)

    def answers_to(self, plan: ArmPlan, suite: str | None = None) -> Mapping[str, Answer]:
        """Return the answers of any plan, once for each name and suite."""
        name = f"answers of {plan.name}" + (f" on {suite}" if suite else "")
        found = self.once(name, lambda: answering.answers_of(self, plan, suite))
        drifting.ask_along(self, plan.name)
        return found

    @step
    def neutral_prompts(self) -> Rows:
        """The neutral prompts."""
        return drifting.prompts_of(self)

    @step
    def drift(self) -> Drift:
        """The drift from the base on neutral prompts."""
        return drifting.drift_of(self)

    @step
    def noise(self) -> tuple[Mapping[str, Answer], ...]:
        """The further answers of the base to the held-out rows."""
        return noise_of(self)

    @step
    def best_prompt(self) -> str:
        """The best of the hand-written prompts."""
        return best_prompt_of(self)

    @step
    def looks(self) -> int:
        """Which look at these held-out rows this is; settled once all arms have answered."""
        return settled_look(self)

    def arm(self, name: str) -> Arm:
        """Return the view of an arm that tests take."""
        return arm_views.view_of(self, name)

    def decision(self) -> Decision:
        """Return the decision over everything that is known by now."""
        return decided(self, self.tree())

    def runtime_match(self) -> tuple[RuntimeMatch, ...]:
        """Return the agreement between runtimes; an experiment that names one runtime has none."""
        for plan in self.arms.values():
            if plan.name.partition("@")[0] == TUNED:
                self.answers_to(plan)
        return matches(self.session, self.tree())

    def per_row(self, request: pytest.FixtureRequest, name: str) -> PerRow:
        """Return the stand-in that a rule's set-up sees; the loop puts each row's own in its place."""
        if request.node.get_closest_marker("eval_rule") is None:
            pytest.fail(
                f"{name}: exists inside a rule only: mark the test with @pytest.mark.eval_rule", pytrace=False
            )
        return PerRow(name)
