"""One experiment's way through the rooms: rows, plan, adapter, answers, scores, decision, each made once on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, TypeVar, overload

import pytest

from pytest_finetune.evaluation.arms import PROMPTED, TUNED, asking_order, planned, unconstrained
from pytest_finetune.evaluation.response import Response
from pytest_finetune.markers import ExperimentRef, Stage
from pytest_finetune.suite import (
    answering,
    drifting,
    header,
    outside,
    planning,
    tokens,
    training_step,
    wear,
)
from pytest_finetune.suite.evidence import Fact, grow, remember
from pytest_finetune.suite.per_row import PerRow

if TYPE_CHECKING:
    from pytest_finetune.data.charter import Charter
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.findings import Findings
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.evaluation.answers import Answer
    from pytest_finetune.evaluation.arm import Arm
    from pytest_finetune.evaluation.arms import ArmPlan
    from pytest_finetune.evaluation.decision import Decision
    from pytest_finetune.evaluation.drift import Drift
    from pytest_finetune.evaluation.runtime_match import RuntimeMatch
    from pytest_finetune.evaluation.runtimes import Runtime
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.memory.hardware import Budget
    from pytest_finetune.memory.plan import MemoryPlan
    from pytest_finetune.session import FinetuneSession
    from pytest_finetune.suite.answering import BaseModel
    from pytest_finetune.suite.training_step import Adapter

T = TypeVar("T")

MALFORMED_SHOWN: Final = 20
OVERLAP_ROWS: Final = 100_000


class step(Generic[T]):  # noqa: N801 (reads as `cached_property`)
    """A part of the run that is made once; a failure is told in full once, then named in one line."""

    def __init__(self, make: Callable[[ExperimentRun], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, run: None, owner: type) -> step[T]: ...
    @overload
    def __get__(self, run: ExperimentRun, owner: type) -> T: ...
    def __get__(self, run: ExperimentRun | None, owner: type) -> step[T] | T:
        if run is None:
            return self
        return run.once(self._name.replace("_", " "), lambda: self._make(run))


class ExperimentRun:
    """The lazy cache of one experiment; fixtures are views of it."""

    def __init__(self, session: FinetuneSession, ref: ExperimentRef, experiment: Experiment) -> None:
        self.session = session
        self.ref = ref
        self.experiment = experiment
        self.facts: dict[str, Fact] = {}
        self.runtimes: set[str] = set()
        self.derived: dict[str, Callable[[], Rows]] = {}
        self._made: dict[str, Any] = {}
        self._failed: dict[str, str] = {}

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
        if name in self._failed:
            pytest.fail(f"not run: {name} failed before: {self._failed[name]}", pytrace=False)
        if name not in self._made:
            try:
                self._made[name] = make()
            except Exception as error:
                self._give_up(name, error)
        return self._made[name]  # type: ignore[no-any-return]

    def made(self, name: str) -> bool:
        """Tell whether a part is there already."""
        return name in self._made

    def _give_up(self, name: str, error: Exception) -> NoReturn:
        text = str(error) or type(error).__name__
        self._failed[name] = text.splitlines()[0][:300]
        if isinstance(error, _user_errors()):
            raise pytest.fail.Exception(text, pytrace=False) from None
        raise error

    @step
    def charter(self) -> Charter:
        """The charter."""
        from pytest_finetune.data.charter import Charter

        return Charter(self.experiment.charter)

    @step
    def contract(self) -> Contract:
        """The data contract, with the checks that plugins add."""
        from pytest_finetune.data.contract import Contract
        from pytest_finetune.suite.contract import SessionContract

        file = self.experiment.paths.contract_file
        contract = Contract.load(self.experiment.root, file) if file else Contract.default()
        tokenization = tokens.tokenization_of(self.experiment)
        if tokenization is not None:
            contract = contract.with_tokens(tokenization)
        checks = (self._plugin_checks, partial(wear.trained_after_a_look, self.session.store.looks))
        return SessionContract.of(contract.with_checks(*checks), self._note_findings)

    def _note_findings(self, findings: Findings) -> None:
        self.note(("data", "findings"), [finding.as_json() for finding in findings])
        self.note(("data", "waived"), [{**f.as_json(), "waiver": w.as_json()} for f, w in findings.waived])

    def _plugin_checks(self, train: Rows, held_out: Rows) -> list[Any]:
        found = self.session.config.hook.pytest_finetune_data_checks(
            experiment=self.experiment, train_rows=train, eval_rows=held_out
        )
        return [finding for findings in found for finding in findings or ()]

    @step
    def train_rows(self) -> Rows:
        """The training rows."""
        return self._read(self.experiment.paths.train_file, "train")

    @step
    def eval_rows(self) -> Rows:
        """The held-out rows."""
        return self._read(self.experiment.paths.eval_file, "eval")

    def rows_of(self, suite: str | None) -> Rows:
        """Return the held-out rows of a suite; None is `eval_file`."""
        if suite is None:
            return self.eval_rows
        if suite in self.derived:
            return self.once(f"suite {suite}", self.derived[suite])
        suites = self.experiment.paths.suites
        if suite not in suites:
            known = ", ".join(suites) or "none"
            pytest.fail(
                f"eval_rule(suite={suite!r}): no such suite under paths.suites; known: {known}", pytrace=False
            )
        return self.once(f"suite {suite}", lambda: self._read(suites[suite], suite))

    def _read(self, relative: str, split: str) -> Rows:
        from pytest_finetune.data.profile import profile
        from pytest_finetune.data.rows import read_rows

        rows = read_rows(self.experiment.root, relative, split, max_line_bytes=self.contract.max_line_bytes)
        counted = self.contract.tokenization.table(rows) if self.contract.tokenization else None
        self.note(("data", split), profile(rows, self.contract, counted))
        return rows

    @step
    def checked_data(self) -> bool:
        """The built-in contract check: it runs before anything is trained or asked, whatever tests were selected."""
        findings = self.contract.findings(self.train_rows, self.eval_rows)
        self._note_overlap()
        if findings.errors:
            self.close_gate(Stage.DATA, "the built-in contract check", findings.headline())
            lines = findings.explain(limit=MALFORMED_SHOWN)
            pytest.fail("nothing is trained: the rows break the contract\n" + "\n".join(lines), pytrace=False)
        self._check_first("the arms of the experiment", outside.check)
        self._check_first("the neutral prompts", drifting.check)
        return True

    def _check_first(self, name: str, check: Callable[[ExperimentRun], None]) -> None:
        """Look at what would cost a night to find missing afterwards."""
        try:
            check(self)
        except BaseException as error:
            self.close_gate(Stage.DATA, name, str(error).splitlines()[0])
            raise

    def _note_overlap(self) -> None:
        from pytest_finetune.data.profile import overlap

        if len(self.train_rows) <= OVERLAP_ROWS:  # it holds every n-gram of the training rows
            self.note(("data", "overlap"), overlap(self.train_rows, self.eval_rows))

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
        return self.once(f"runtime {name}", lambda: answering.runtime_for(self, name))

    def rest(self, names: Iterable[str]) -> None:
        """Let runtimes that were made give back their memory, or stop their server."""
        for made in [self._made.get(f"runtime {name}") for name in names]:
            if made is not None:
                made.release()

    @step
    def base_model(self) -> BaseModel:
        """The base model, for tests that ask it themselves."""
        return answering.BaseModel(self.runtime, unconstrained(self.experiment))

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
        from pytest_finetune.suite.noise import noise_of

        return noise_of(self)

    @step
    def best_prompt(self) -> str:
        """The best of the hand-written prompts."""
        from pytest_finetune.suite.candidates import best_prompt_of

        return best_prompt_of(self)

    @step
    def looks(self) -> int:
        """Which look at these held-out rows this is; settled once all arms have answered."""
        from pytest_finetune.suite.deciding import look_of

        for arm in asking_order(self.arms):
            self.answers(arm)
        if self.experiment.drift.measure:
            _ = self.drift
        tree = self.tree()
        look = look_of(tree, self.eval_rows)
        book = self.session.store.looks
        k = book.earlier(look)
        self.note(("looks",), {"k": k, "rules_sha256": look.rules_sha256})
        for name in book.changed_after_look(
            {rule: facts["sha256"] for rule, facts in tree["rules"].items()}, look.rows
        ):
            self.note(("rules", name, "changed_after_look"), True)
        return k

    def arm(self, name: str) -> Arm:
        """Return the view of an arm that tests take."""
        from pytest_finetune.evaluation.arm import Arm

        if name not in self.arms:
            pytest.fail(_no_arm(name, self.arms), pytrace=False)
        responses = {id_: as_response(answer) for id_, answer in self.answers(name).items()}
        return Arm(name, self.arms[name].runtime, responses, self._score)

    def _score(self, arm: str, rule: str) -> Any:
        from pytest_finetune.record.case import score_of

        rules = self.tree().get("rules", {})
        if rule not in rules:
            known = ", ".join(rules) or "none"
            pytest.fail(f"{arm}[{rule!r}]: there is no rule of that name; known: {known}", pytrace=False)
        if rules[rule].get("outcome") in {None, "not run", "error"}:
            state = (
                "ended as an error"
                if rules[rule].get("outcome") == "error"
                else "was not run in this session"
            )
            pytest.fail(f"{arm}[{rule!r}]: the rule {state}, so it has no score", pytrace=False)
        return score_of(self.tree(), rule, arm)

    def decision(self) -> Decision:
        """Return the decision over everything that is known by now."""
        from pytest_finetune.suite.deciding import decided

        return decided(self, self.tree())

    def runtime_match(self) -> tuple[RuntimeMatch, ...]:
        """Return the agreement between runtimes; an experiment that names one runtime has none."""
        from pytest_finetune.suite.deciding import matches

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


def _no_arm(name: str, known: Iterable[str]) -> str:
    if name == PROMPTED:
        return "there is no prompt-only arm: set prompt.few_shot in the experiment"
    return (
        f"there is no arm {name!r}; known: {', '.join(known)}: name another one under arms in the experiment"
    )


def as_response(answer: Answer) -> Response:
    """Return an answer as rules see it."""
    return Response(answer.response, answer.tokens, answer.seconds, answer.stopped)


def _user_errors() -> tuple[type[Exception], ...]:
    from pytest_finetune.data.contract import ContractError
    from pytest_finetune.data.neutral import PromptsError
    from pytest_finetune.evaluation.answers import AnswersError
    from pytest_finetune.evaluation.runtimes.protocol import AnsweringError
    from pytest_finetune.experiment import ExperimentError
    from pytest_finetune.fingerprint import BaseModelError
    from pytest_finetune.memory.figures import PlanError
    from pytest_finetune.store import StoreError
    from pytest_finetune.suite.rule_items import NotSetUp
    from pytest_finetune.training.request import TrainingError

    return (
        AnswersError,
        BaseModelError,
        ContractError,
        ExperimentError,
        FileNotFoundError,
        PlanError,
        PromptsError,
        AnsweringError,
        NotSetUp,
        StoreError,
        TrainingError,
    )
