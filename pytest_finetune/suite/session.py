"""The state of one pytest session: settings, experiments and their runs, the gate, and the evidence so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_finetune.suite import collection, explain, xdist
from pytest_finetune.suite.evidence import Evidence, Outbox, first_line
from pytest_finetune.suite.gate import Gate
from pytest_finetune.suite.markers import ExperimentRef, MarkerMistake, Stage
from pytest_finetune.suite.options import Settings, read_settings
from pytest_finetune.suite.wholeness import Wholeness, outline

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.memory.hardware.budget import Budget
    from pytest_finetune.memory.plan.plan import MemoryPlan
    from pytest_finetune.store import Store
    from pytest_finetune.suite.device import ChosenDevice
    from pytest_finetune.suite.run import ExperimentRun

_KEY: Final = pytest.StashKey["FinetuneSession"]()

NO_FLAG: Final = "needs a model: run pytest --finetune"


def of(config: pytest.Config) -> FinetuneSession:
    """Return the session that was begun for this config."""
    return config.stash[_KEY]


def begin(config: pytest.Config) -> FinetuneSession:
    """Read the settings and begin; raises pytest.UsageError for flags that cannot be meant."""
    from pytest_finetune import huggingface

    config.stash[_KEY] = session = FinetuneSession(config, read_settings(config))
    config.pluginmanager.register(huggingface, "finetune-huggingface")
    config.add_cleanup(session.release)
    return session


class FinetuneSession:
    """What lives as long as the pytest session; everything in it is made when it is first asked for."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.refs: Sequence[ExperimentRef] = [ExperimentRef(file) for file in settings.experiments]
        self.given: Sequence[str] = tuple(map(str, config.args))
        self.gate = Gate()
        self.outbox = Outbox()
        self.evidence = Evidence()
        self.whole = Wholeness()
        self.item: pytest.Item | None = None
        self.brought: set[str] = set()
        self.asked_for: Callable[[pytest.Item], bool] | None = None
        self.promoted: list[str] = []
        self.brings_rules = True
        self.rule_items: dict[ExperimentRef, list[pytest.Item]] = {}
        self._runs: dict[ExperimentRef, ExperimentRun] = {}
        self._experiments: dict[ExperimentRef, Experiment] = {}

    @cached_property
    def store(self) -> Store:
        """The store; nothing is written before something is kept."""
        from pytest_finetune.store import open_store

        settings = self.settings
        return open_store(settings.store, self.config.rootpath, readonly=settings.store_readonly)

    @cached_property
    def headroom(self) -> float:
        """The share of the card that stays free; a mistake in it was told before collection."""
        from pytest_finetune.memory.hardware.detect import HEADROOM
        from pytest_finetune.memory.hardware.sizes import parse_share

        return parse_share(self.settings.headroom) if self.settings.headroom else HEADROOM

    @cached_property
    def chosen(self) -> ChosenDevice:
        """The device of this session, and its lease in an xdist worker."""
        from pytest_finetune.suite.device import ChosenDevice

        return ChosenDevice(self.config, self.settings.device, self._note_hardware)

    @property
    def device(self) -> str:
        """The name of the device to run on; an xdist worker waits here for a GPU of its own."""
        return self.chosen.name

    def _note_hardware(self) -> None:
        from pytest_finetune.suite.steps.header import hardware

        for run in self._runs.values():
            run.note(("hardware",), hardware(self))

    def load(self, ref: ExperimentRef) -> Experiment:
        """Return the resolved experiment; ExperimentError with every mistake in it."""
        if ref not in self._experiments:
            from pytest_finetune.experiment import load_experiment

            overrides = {**dict(ref.overrides), **self.settings.overrides}
            self._experiments[ref] = load_experiment(self.config.rootpath, ref.file, overrides, name=ref.name)
        return self._experiments[ref]

    def run(self, ref: ExperimentRef | MarkerMistake) -> ExperimentRun:
        """Return the run of an experiment; a mistake in its marker or file fails the item that asks."""
        if isinstance(ref, MarkerMistake):
            pytest.fail(str(ref), pytrace=False)
        if ref not in self._runs:
            from pytest_finetune.experiment import ExperimentError
            from pytest_finetune.suite.run import ExperimentRun

            try:
                experiment = self.load(ref)
            except ExperimentError as error:
                raise pytest.fail.Exception(f"{error}{self._hint(ref)}", pytrace=False) from None
            self._runs[ref] = ExperimentRun(self, ref, experiment)
        return self._runs[ref]

    def adopt(self, ref: ExperimentRef, run: ExperimentRun) -> None:
        """Let `run` be the run of an experiment that is not read from this project."""
        self._experiments[ref] = run.experiment
        self._runs[ref] = run

    def run_named(self, name: str, tree: Mapping[str, Any]) -> ExperimentRun:
        """Return the run of that name; on an xdist controller, which ran nothing, one made from its facts."""
        for run in self._runs.values():
            if run.experiment.name == name:
                return run
        overrides = tuple(sorted(tree["overrides"].items(), key=lambda pair: pair[0]))
        return self.run(ExperimentRef(tree["config_file"], overrides))

    def release(self) -> None:
        """Stop the servers that were started and give a leased GPU back; other memory goes with the process."""
        leased = "chosen" in self.__dict__ and self.chosen.lease is not None
        for run in self._runs.values():
            run.rest(run.runtimes if leased else run.experiment.runtime_settings)
        if leased:
            self.chosen.release()

    def _hint(self, ref: ExperimentRef) -> str:
        if (self.config.rootpath / ref.file).exists():
            return ""
        return (
            "\nname the file in the ini option finetune_experiments, or mark the test finetune('file.yaml')"
        )

    def check_early(self) -> None:
        """Parse what flags and ini name, before collection, so that a mistake is a usage error (exit 4).

        Runs where usage errors can be raised: in the only process or on the xdist controller.
        """
        exists = [ref for ref in self.refs if (self.config.rootpath / ref.file).is_file()]
        if not (self.settings.asked or exists):
            return
        from pytest_finetune.experiment import ExperimentError

        xdist.refuse_unsupported(self.config)
        asked_or_named = self.refs if self._named_in_ini() or self.settings.finetune else exists
        for ref in asked_or_named:
            try:
                self.load(ref)
            except ExperimentError as error:
                raise pytest.UsageError(str(error)) from None
        self._check_store()
        self._check_hardware()

    def _check_store(self) -> None:
        from pytest_finetune.store import StoreError, is_url

        if not is_url(self.settings.store) and not self.settings.store_readonly:
            return  # a folder to write to is made when something is kept

        try:
            _ = self.store
        except StoreError as error:
            raise pytest.UsageError(f"--finetune-store: {error}") from None

    def _named_in_ini(self) -> bool:
        from pytest_finetune.suite.options import DEFAULT_EXPERIMENT

        return self.settings.experiments != (DEFAULT_EXPERIMENT,)

    def _check_hardware(self) -> None:
        from pytest_finetune.memory.hardware.detect import accelerator, parse_budget

        if self.settings.budget:
            try:
                parse_budget(self.settings.budget)
            except ValueError as error:
                raise pytest.UsageError(f"--finetune-budget={self.settings.budget!r}: {error}") from None
        try:
            _ = self.headroom
        except ValueError as error:
            raise pytest.UsageError(f"--finetune-headroom: {error}") from None
        wants_gpu = self.settings.require_gpu or self.settings.device.startswith(("cuda", "mps"))
        if wants_gpu and self.settings.asked and accelerator() == "cpu":
            why = (
                "--finetune-require-gpu"
                if self.settings.require_gpu
                else f"--finetune-device={self.settings.device}"
            )
            raise pytest.UsageError(f"{why}: there is no accelerator here, or this torch build cannot use it")
        if self.settings.device.startswith("cuda:"):
            from pytest_finetune.suite.device import refuse_missing

            refuse_missing(self.settings.device)

    def before_test(self, item: pytest.Item) -> None:
        """Skip, block or refuse an item of ours before its fixtures are set up."""
        self.item = item
        self._skip_without_gpu(item)
        place = collection.place_of(item)
        if place is None:
            return
        if place.mistake is not None:
            pytest.fail(place.mistake, pytrace=False)
        self._refuse_bad_rule(item, place)
        misuse = collection.per_row_misuse(item)
        if misuse is not None:
            pytest.fail(f"{item.name}: {misuse}", pytrace=False)
        if place.stage.needs_model and not self.settings.finetune:
            pytest.skip(NO_FLAG)
        if place.experiment is None:
            return
        self.run(place.experiment).begin()
        closed = self.gate.blocks(place.experiment, place.stage)
        if closed is not None:
            pytest.fail(closed.message, pytrace=False)

    def _refuse_bad_rule(self, item: pytest.Item, place: collection.Place) -> None:
        if item.get_closest_marker("eval_rule") is None:
            return
        from pytest_finetune.suite.rules.rule_marks import duplicate, rule_of

        try:
            rule_of(item)
        except MarkerMistake as mistake:
            raise pytest.fail.Exception(str(mistake), pytrace=False) from None
        twice = duplicate(item, self.rule_items.get(place.experiment, ())) if place.experiment else None
        if twice is not None:
            pytest.fail(twice, pytrace=False)

    def after_phase(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Close the gate behind a failed data or fit test, and send the evidence with the report."""
        place = collection.place_of(item)
        if place is None:
            return
        name = place.experiment.name if place.experiment else None
        if report.failed and place.experiment and not place.stage.needs_model:
            self._close_gate(place, item, report)
        if place.stage is Stage.RULES and self.settings.finetune:
            self._note_rule_that_never_ran(place, item, report)
        if report.when == "call" and place.experiment in self._runs and place.experiment is not None:
            from pytest_finetune.suite.closing.junit import properties

            item.user_properties += properties(self._runs[place.experiment], place.stage, item)
        self.outbox.send(report, place.stage.word, name)

    def _note_rule_that_never_ran(
        self, place: collection.Place, item: pytest.Item, report: pytest.TestReport
    ) -> None:
        """Put down why a rule judged nothing, so that the decision can say it."""
        from pytest_finetune.suite.rules.rule_marks import not_set_up

        run = self._runs.get(place.experiment) if place.experiment else None
        found = not_set_up(item, report) if run is not None else None
        if run is None or found is None:
            return
        closed = self.gate.blocks(run.ref, place.stage)
        run.not_judged(found[0], f"the {closed.stage.word} stage failed" if closed else found[1])

    def _close_gate(self, place: collection.Place, item: pytest.Item, report: pytest.TestReport) -> None:
        assert place.experiment is not None
        if place.experiment in self._runs:
            self._runs[place.experiment].close_gate(place.stage, item.nodeid, first_line(report))
        else:  # the experiment file itself cannot be used
            self.gate.close(place.experiment, place.stage, item.nodeid, first_line(report))

    def _skip_without_gpu(self, item: pytest.Item) -> None:
        mark = item.get_closest_marker("gpu")
        if mark is None:
            return
        from pytest_finetune.suite.device import reason_to_skip

        wanted = mark.kwargs.get("min_gib", mark.args[0] if mark.args else 0)
        reason = reason_to_skip(self.chosen, wanted, self.config.rootpath)
        if reason is not None:
            pytest.skip(reason)

    def explain(self, op: str, left: object, right: object) -> list[str] | None:
        """Explain a failed assertion about one of our objects; the whole text goes into a report section."""
        found = explain.compare(op, left, right, self._plan_lines)
        if found is None:
            return None
        explain.section(self.item, found.title, found.whole)
        return list(found.brief)

    def _plan_lines(self, plan: MemoryPlan, budget: Budget | int) -> list[str]:
        from pytest_finetune.suite.steps.planning import plan_lines

        return plan_lines(plan, budget, self.store)

    def warnings(self) -> list[str]:
        """Return what the store set aside or passed over, and why no GPU was leased; asks nothing that was not used."""
        store = self.store.warnings if "store" in self.__dict__ else ()
        chosen = self.chosen.warnings if "chosen" in self.__dict__ else ()
        return [*store, *chosen]

    def narrowed(self) -> list[str]:
        """Return what narrows this run, as it was written."""
        return collection.narrowing(self.config, self.given)

    def left_out(self) -> list[str]:
        """Return, a sentence each, what of the collected tests or of the last whole run did not run."""
        known = self.evidence.experiments() if self.settings.finetune else ()
        last = [self.store.last(f"whole-{name}") for name in known]
        return self.whole.left_out(last, self.config.rootpath)

    def remember_whole(self) -> None:
        """Keep which tests make a whole run of each experiment, when this was one."""
        if self.narrowed() or self.left_out():
            return
        for name in self.evidence.experiments():
            own = [test for test in self.evidence.tests.values() if test.experiment == name]
            self.store.remember(f"whole-{name}", outline(own))


__all__ = ["FinetuneSession", "Stage", "begin", "of"]
