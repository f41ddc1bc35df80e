"""One experiment's way through the rooms: the one place where its steps are put together, each made once on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_finetune.answering.arm_plans import BASELINE, TUNED, asking_order, unconstrained
from pytest_finetune.data.charter import Charter
from pytest_finetune.data.neutral import neutral_rows
from pytest_finetune.data.trivial import Trivial, trivial_opponent
from pytest_finetune.data.turn_by_turn import turn_by_turn
from pytest_finetune.suite.arm_view import Arm, view_of
from pytest_finetune.suite.asking import Asking
from pytest_finetune.suite.markers import ExperimentRef, Stage
from pytest_finetune.suite.parts import Parts, part
from pytest_finetune.suite.rules.gold_answers import GoldTests
from pytest_finetune.suite.rules.judges import judging_of
from pytest_finetune.suite.rules.rule_items import answers_judged, looked_at
from pytest_finetune.suite.rules.rule_marks import facts_of, rules_of
from pytest_finetune.suite.steps import data_step, deciding, header, planning
from pytest_finetune.suite.steps.data_step import Data
from pytest_finetune.suite.steps.engine import BaseModel, Engine
from pytest_finetune.suite.steps.replaying import Replaying
from pytest_finetune.suite.steps.seeds import Seeds, trained_seeds
from pytest_finetune.suite.steps.training_step import Adapter, TrainingStep

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.arm_plans import ArmPlan
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.judging.decision import Decision
    from pytest_finetune.judging.drift import Drift
    from pytest_finetune.judging.runtime_match import RuntimeMatch
    from pytest_finetune.memory.hardware.detect import Budget
    from pytest_finetune.memory.hardware.disk import DiskBudget
    from pytest_finetune.memory.measure import Fit
    from pytest_finetune.memory.plan.plan import MemoryPlan
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.gate import Gate
    from pytest_finetune.suite.steps.unplanned import Unplanned

MALFORMED_SHOWN: Final = 20


class ExperimentRun:
    """The parts of one experiment; fixtures are views of it, and nothing is made before it is asked for."""

    def __init__(
        self, ref: ExperimentRef, context: Context, gate: Gate, rules: Sequence[pytest.Item]
    ) -> None:
        self.ref = ref
        self.context = context
        self.experiment = context.experiment
        self.engine = Engine(context)
        self._gate = gate
        self.rules = rules
        self._rows: Parts[str | None, Rows] = Parts(lambda suite: f"suite {suite}")
        self.gold = GoldTests(self)
        self._asking = Asking(self)
        if context.jobs is not None:
            context.jobs.longest = self._longest_tokens

    def begin(self) -> None:
        """Record, once, what is known before anything runs."""
        if not self.context.facts.known:
            hardware = header.hardware(self.context) if self.context.settings.finetune else None
            for where, value in header.facts(self.experiment, hardware, facts_of(self.rules)):
                self.context.record(where, value)

    def not_judged(self, rule: str, because: str) -> None:
        """Record why a rule never ran, unless a mistake in it was known before."""
        self.begin()
        if not self.context.facts.tree()["rules"][rule]["reasons"]:
            self.context.record(("rules", rule), {"reasons": [because]})

    def close_gate(self, stage: Stage, by: str, because: str) -> None:
        """Close the later stages of this experiment; the first failure is the one that counts."""
        if self._gate.close(self.ref, stage, by, because):
            self.context.record(("gate",), {"stage": stage.word, "by": by, "because": because})

    @contextmanager
    def _closing_gate(self, stage: Stage, by: str) -> Iterator[None]:
        try:
            yield
        except (Exception, pytest.fail.Exception, KeyboardInterrupt) as error:
            stopped = isinstance(error, KeyboardInterrupt)
            said = "somebody stopped the run" if stopped else str(error) or type(error).__name__
            self.close_gate(stage, by, said.splitlines()[0])
            raise

    @part
    def charter(self) -> Charter:
        """The charter."""
        return Charter(self.experiment.charter)

    @part
    def contract(self) -> Contract:
        """The data contract, with the checks that plugins add."""
        return data_step.contract_of(self.context, lambda: self.dev_rows)

    @part
    def taught(self) -> data_step.Taught:
        """The training rows, and the development rows if there are any."""
        with self.context.clock.spent_on("data"):
            return data_step.taught(self.context, self.contract)

    @property
    def train_rows(self) -> Rows:
        """The training rows."""
        return self.taught.train

    @property
    def dev_rows(self) -> Rows | None:
        """The rows that something is chosen on, neither trained on nor judged by; None without any."""
        return self.taught.dev

    @part
    def eval_rows(self) -> Rows:
        """The held-out rows."""
        return self._read(self.experiment.paths.eval_file, "eval")

    def _read(self, file: str, name: str) -> Rows:
        with self.context.clock.spent_on("data"):
            return data_step.read(self.context, self.contract, file, name)

    @part
    def trivial_opponent(self) -> Trivial | None:
        """The opponent that needs no model; None where no trivial answer could pass."""
        return trivial_opponent(self.contract, self.train_rows)

    @property
    def arms(self) -> Mapping[str, ArmPlan]:
        """The arms by name; what the contract and the training rows add to those of the experiment is recorded."""
        return self._asking.plans

    def rows_of(self, suite: str | None) -> Rows:
        """Return the held-out rows of a suite as they are asked; None is `eval_file`."""
        return self._rows.once(suite, lambda: self._read_rows(suite))

    def _read_rows(self, suite: str | None) -> Rows:
        file = data_step.file_of(self.experiment, suite) if suite else None
        rows = self._read(file, str(suite)) if file else self.eval_rows
        return turn_by_turn(rows) if self.experiment.prompt.turns == "each" else rows

    @part
    def neutral_prompts(self) -> Rows:
        """The neutral prompts: the experiment's own, or those that ship."""
        return neutral_rows(self.experiment.root, self.experiment.drift.prompts)

    @part
    def checked_data(self) -> Data:
        """The data after the built-in checks, which run before anything is trained or asked, whatever was selected.

        They look for everything that the run will need: a night must not burn for a missing file.
        """
        with self.context.clock.spent_on("data"):
            return self._checked(Data(self.contract, self.train_rows, self.eval_rows, self.dev_rows))

    def _checked(self, data: Data) -> Data:
        findings = data.contract.findings(data.train, data.held_out)
        data_step.record_overlap(self.context, data.train, data.held_out)
        if findings.errors:
            self.close_gate(Stage.DATA, "the built-in contract check", findings.headline())
            lines = findings.explain(limit=MALFORMED_SHOWN)
            pytest.fail("nothing is trained: the rows break the contract\n" + "\n".join(lines), pytrace=False)
        with self._closing_gate(Stage.DATA, "the arms of the experiment"):
            for plan in self.arms.values():
                self._asking.outside_of(plan)
        with self._closing_gate(Stage.DATA, "the neutral prompts"):
            if self.experiment.drift.measure:
                _ = self.neutral_prompts
            _ = self.replaying
        with self._closing_gate(Stage.DATA, "the test of the rules"):
            self.gold.test_all(self.rules)
        return data

    def test_rule(self, item: pytest.Function) -> None:
        """Run a rule that is set up on the expected answers, unless it was before; RuleBroken where it fails one."""
        _ = self.checked_data
        self.gold.test(item, set_up=True)

    @part
    def memory_plan(self) -> MemoryPlan | Unplanned:
        """The predicted peak of the training, or what stands in for it where its step cannot be traced."""
        with self.context.clock.spent_on("plan"):
            return planning.memory_plan(self.context, self._longest_tokens(), self.budget, self._measured)

    def _longest_tokens(self) -> int | None:
        """Return what the longest row that is taught can need, None where tokens cannot be counted."""
        return planning.longest_taught(self.contract, self.train_rows, self.replaying)

    @part
    def budget(self) -> Budget:
        """What is here, or what ``--finetune-budget`` names."""
        return planning.budget_of(self.context)

    def budget_or_skip(self) -> Budget:
        """Return the budget; skip, with the plan printed, where there is no card to compare with."""
        if not self.budget.comparable:
            pytest.skip(f"{self.memory_plan!r}; not compared: {self.budget.incomparable_because}")
        return self.budget

    @property
    def disk_budget(self) -> DiskBudget:
        """What is free on the disk where the store lies."""
        return planning.disk_of(self.context.store)

    def power(self, rules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
        """Return what the held-out file can show; None where it cannot be read, which a data test says better."""
        try:
            rows = self.rows_of(None)
        except (pytest.fail.Exception, OSError):
            return None
        return planning.power_facts(self.experiment.decision, rows, self.context.store.looks, rules)

    def _power_warning(self) -> str | None:
        """Return what to say before the first step when the gate would probably not open, whatever is trained."""
        power = self.power(self.context.facts.tree().get("rules", {}))
        warning = power and power["warning"]
        return f"{self.experiment.name}: {warning}" if warning else None

    @property
    def adapter(self) -> Adapter:
        """The adapter, trained now or reused; a failure closes the stages after the training."""
        with self._closing_gate(Stage.TRAINING, self._gate.running or "the training"):
            return self.the_training

    @part
    def the_training(self) -> Adapter:
        """The adapter of this experiment's training; of several seeds the one that is judged."""
        if self.experiment.training.seeds:
            return self.seeds.judged
        with self.context.clock.spent_on("training"):
            return self._step(self.context).adapter()

    @part
    def seeds(self) -> Seeds:
        """The adapters of all seeds, where there are several."""
        with self.context.clock.spent_on("training"):
            return trained_seeds(self.context, self._step, self._asking.on_development)

    def _step(self, context: Context, first: bool = True) -> TrainingStep:
        warning = self._power_warning if first else lambda: None
        return TrainingStep(context, self.engine, self.checked_data, self._fit, warning, self.replaying)

    @part
    def replaying(self) -> Replaying | None:
        """What of the base is taught besides the rows; None where nothing is."""
        return Replaying.of(self.experiment, self.contract, self.train_rows, self._asking.replayed)

    def _measured(self) -> Mapping[str, int]:
        """Train, and return the peaks of the longest batch."""
        _ = self.adapter
        measured: Mapping[str, int] = self.context.facts.tree().get("measured", {})
        return measured

    def _fit(self) -> Fit | None:
        asked_for = ExperimentRun.memory_plan.made(self)
        return planning.fit_of(self.context.store, self.budget, lambda: self.memory_plan, planned=asked_for)

    @part
    def base_model(self) -> BaseModel:
        """The base model, for tests that ask it themselves; it answers in the runtime of the decision."""
        return BaseModel(self.engine.runtime(self.experiment.runtimes[0]), unconstrained(self.experiment))

    def answers(self, arm: str, suite: str | None = None, rows: Rows | None = None) -> Mapping[str, Answer]:
        """Return an arm's answers by row id, from the store or from the model.

        `rows` are those of a suite that stands in no file, such as held-out rows in other words.
        """
        return self._asking.answers(arm, suite, rows)

    @property
    def noise(self) -> tuple[Mapping[str, Answer], ...]:
        """The further answers of the base to the held-out rows."""
        return self._asking.noise

    def arm(self, name: str) -> Arm:
        """Return the view of an arm that tests take."""
        return view_of(name, self.arms, self.answers, self.context.facts.tree)

    @part
    def drift(self) -> Drift:
        """The drift from the base on neutral prompts."""
        with self.context.clock.spent_on("drift"):
            return self._asking.drifting.measure(lambda: self.adapter.path, self.contract, self.train_rows)

    def drift_or_fail(self) -> Drift:
        """Return the drift to a test that asks for it; fail with the reason where there is none."""
        if not self.experiment.drift.measure:
            pytest.fail(
                f"{self.experiment.file} says drift: false, so none is measured: remove that line",
                pytrace=False,
            )
        for arm in (TUNED, BASELINE):  # what stops them stops this test in its own words
            self.answers(arm)
        if not self.drift.measured:
            pytest.fail(self.drift.explain()[0], pytrace=False)
        return self.drift

    @part
    def looks(self) -> int:
        """Which look at these held-out rows this is; settled once all arms have answered."""
        for arm in asking_order(self.arms):
            self.answers(arm)
        if self.experiment.drift.measure:
            _ = self.drift
        return deciding.settled_look(self.context, self.rows_of(None), self._verdicts())

    def _verdicts(self) -> dict[str, str | None]:
        """Return, for each judged rule whose turn has not come, the digest of what its judge said before."""
        told, found = self.context.facts.tree()["rules"], {}
        for name, (rule, item) in rules_of(self.rules).items():
            judging = judging_of(self.context, item, rule)
            if judging is not None and "verdicts" not in told[name]:
                found[name] = judging.spoken(self.rows_of(rule.suite), looked_at(answers_judged(self, rule)))
        return found

    def record_formats(self, rule: str) -> None:
        """Record, beside the primary rule's rates, how many answers of each arm have the task's format at all."""
        data = Data(self.contract, self.train_rows, self.rows_of(None))
        deciding.record_formats(self.context, data, rule, self.answers)

    def decision(self, tree: Mapping[str, Any] | None = None) -> Decision:
        """Return the decision over everything that is known by now, or over the facts of a whole run."""
        facts = self.context.facts.tree() if tree is None else tree
        with self.context.clock.spent_on("decision"):
            return deciding.decided(
                self.context, facts, lambda: Data(self.contract, self.train_rows, self.rows_of(None))
            )

    def runtime_match(self) -> tuple[RuntimeMatch, ...]:
        """Return the agreement between runtimes; an experiment that names one runtime has none."""
        for name in self.arms:
            if name.partition("@")[0] == TUNED:
                self.answers(name)
        return deciding.matches(self.context.store, self.context.facts.tree())
