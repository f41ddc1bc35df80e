"""The state of one pytest session: settings, experiments and their runs, the gate, and the evidence so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_finetune.clock import Clock
from pytest_finetune.experiment import Experiment, ExperimentError, load_experiment
from pytest_finetune.experiment.reading import located
from pytest_finetune.memory.hardware.cards import UnknownCardError, find_card
from pytest_finetune.memory.hardware.detect import accelerator, parse_budget
from pytest_finetune.memory.hardware.sizes import parse_share
from pytest_finetune.publish.trackers import Tracker
from pytest_finetune.store import Store, StoreError, is_url, open_store
from pytest_finetune.suite import collection, xdist
from pytest_finetune.suite.context import Context, Jobs
from pytest_finetune.suite.device import ChosenDevice, refuse_missing
from pytest_finetune.suite.evidence import Evidence, Facts, Outbox
from pytest_finetune.suite.gate import Gate
from pytest_finetune.suite.heartbeat import Heartbeat
from pytest_finetune.suite.markers import ExperimentRef, MarkerMistake, Stage, refuse_one_name
from pytest_finetune.suite.narrowed import Selection
from pytest_finetune.suite.options import DEFAULT_EXPERIMENT, LOCAL, Settings
from pytest_finetune.suite.progress import ProgressLine
from pytest_finetune.suite.run import ExperimentRun
from pytest_finetune.suite.steps.header import hardware
from pytest_finetune.suite.tracking import opened
from pytest_finetune.suite.wholeness import Wholeness, outline

SESSION: Final = pytest.StashKey["FinetuneSession"]()


class FinetuneSession:
    """What lives as long as the pytest session; everything in it is made when it is first asked for."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.refs: Sequence[ExperimentRef] = [ExperimentRef(file) for file in settings.experiments]
        self.selection = Selection(config)
        self.gate = Gate()
        self.outbox = Outbox()
        self.evidence = Evidence()
        self.whole = Wholeness()
        self.item: pytest.Item | None = None
        self.promoted: list[str] = []
        self.away: Callable[[Callable[[], Context]], Jobs] | None = None  # where steps run, if not here
        self.beat = Heartbeat.of(config) if settings.finetune else None
        self._brings_rules = settings.finetune
        self._looked_at: set[ExperimentRef] = set()
        self._runs: dict[ExperimentRef, ExperimentRun] = {}
        self._experiments: dict[ExperimentRef, Experiment] = {}

    @cached_property
    def store(self) -> Store:
        """The store; nothing is written before something is kept."""
        settings = self.settings
        return open_store(settings.store, self.config.rootpath, readonly=settings.store_readonly)

    @cached_property
    def trackers(self) -> Sequence[Tracker]:
        """Where trainings and verdicts are followed; nothing is without the flag."""
        settings = self.settings
        return opened(settings.track, settings.record) if settings.finetune and settings.track else ()

    @cached_property
    def chosen(self) -> ChosenDevice:
        """The device of this session, and its lease in an xdist worker."""
        if self.settings.executor == LOCAL:
            return ChosenDevice(self.config, self.settings.device, self._record_hardware)
        asked = "cpu" if self.settings.device == "cpu" else "auto"  # a card that is named is that of the jobs
        return ChosenDevice(self.config, asked, self._record_hardware, leases=False)

    def _record_hardware(self) -> None:
        for run in self._runs.values():
            run.context.record(("hardware",), hardware(run.context))

    def load(self, ref: ExperimentRef) -> Experiment:
        """Return the resolved experiment; ExperimentError with every mistake in it."""
        if ref not in self._experiments:
            refuse_one_name(self._experiments, ref)
            overrides = {**dict(ref.overrides), **self.settings.overrides}
            self._experiments[ref] = load_experiment(self.config.rootpath, ref.file, overrides, name=ref.name)
        return self._experiments[ref]

    def run(self, ref: ExperimentRef | MarkerMistake) -> ExperimentRun:
        """Return the run of an experiment; a mistake in its marker or file fails the item that asks."""
        if isinstance(ref, MarkerMistake):
            pytest.fail(str(ref), pytrace=False)
        if ref not in self._runs:
            try:
                context = self.context_of(ref)
            except ExperimentError as error:
                raise pytest.fail.Exception(f"{error}{self._hint(ref)}", pytrace=False) from None
            self._runs[ref] = ExperimentRun(ref, context, self.gate, self.rules_of(ref))
        return self._runs[ref]

    def context_of(self, ref: ExperimentRef) -> Context:
        """Return what the steps of an experiment share; ExperimentError with every mistake in its file."""
        experiment = self.load(ref)
        line = ProgressLine(self.config, experiment.name, self.beat)
        facts = Facts(experiment.name, self.outbox)
        hooks, trackers = self.config.hook, self.trackers
        jobs = None if self.away is None else self.away(lambda: context)
        context = Context(
            experiment,
            self.settings,
            self.store,
            hooks,
            self.chosen,
            line,
            facts,
            Clock(tell=line.begin),
            trackers,
            jobs,
        )
        return context

    def known_run(self, ref: ExperimentRef | None) -> ExperimentRun | None:
        """Return the run of an experiment that has begun; None when its file could not be used, or was not asked."""
        return self._runs.get(ref) if ref else None

    def record_times(self) -> None:
        """Record what each run has spent: the test in which somebody stops it sends no report of that."""
        for run in self._runs.values():
            if run.context.facts.known:
                run.context.record(("timings",), run.context.clock.facts())

    def adopt(self, ref: ExperimentRef, experiment: Experiment) -> None:
        """Know an experiment that is not read from this project."""
        self._experiments[ref] = experiment
        self._looked_at.add(ref)

    def first_look(self, ref: ExperimentRef) -> bool:
        """Tell, once, that an experiment of this project has not been looked at yet."""
        first = ref not in self._looked_at
        self._looked_at.add(ref)
        return first

    def replace_experiments(self, ref: ExperimentRef, experiment: Experiment) -> None:
        """Let an experiment stand for all that the project names; no rule is brought along, as all are asked for."""
        self.refs = [ref]
        self._brings_rules = False
        self.adopt(ref, experiment)

    def run_named(self, name: str, tree: Mapping[str, Any]) -> ExperimentRun:
        """Return the run of that name; on an xdist controller, which ran nothing, one made from its facts."""
        for run in self._runs.values():
            if run.experiment.name == name:
                return run
        overrides = tuple(sorted(tree["overrides"].items(), key=lambda pair: pair[0]))
        return self.run(ExperimentRef(tree["config_file"], overrides))

    def release(self) -> None:
        """Stop the servers that were started and give a leased GPU back; other memory goes with the process."""
        if self.beat is not None:
            self.beat.stop()
        leased = "chosen" in self.__dict__ and self.chosen.lease is not None
        for run in self._runs.values():
            run.engine.release(run.engine.runtimes if leased else run.experiment.runtime_settings)
        if leased:
            self.chosen.release()

    def _hint(self, ref: ExperimentRef) -> str:
        root = self.config.rootpath
        if (root / ref.file).exists():
            return ""
        if elsewhere := self._elsewhere(ref.file):
            why = f" by {self.config.inipath}" if self.config.inipath else ""
            return (
                f"\nit stands in '{elsewhere}', and pytest's rootdir is '{root}'{why}: run pytest with "
                f"--rootdir='{elsewhere}', or give that folder a pytest.ini of its own"
            )
        return (
            "\nname the file in the ini option finetune_experiments, or mark the test finetune('file.yaml')"
        )

    def _elsewhere(self, file: str) -> Path | None:
        """Return a folder in which an experiment file stands that is not in the rootdir: here, or below the rootdir."""
        here = self.config.invocation_params.dir
        below = sorted(found.parent for found in self.config.rootpath.glob("*/finetune.y*ml"))
        return next(
            (folder for folder in (here, *here.parents[:2], *below) if (folder / file).is_file()), None
        )

    def check_early(self) -> None:
        """Parse what flags and ini name, before collection, so that a mistake is a usage error (exit 4).

        Runs where usage errors can be raised: in the only process or on the xdist controller.
        """
        exists = [ref for ref in self.refs if (self.config.rootpath / ref.file).is_file()]
        if not (self.settings.asked or exists):
            return
        xdist.refuse_unsupported(self.config)
        asked_or_named = self.refs if self._named_in_ini() or self.settings.finetune else exists
        for ref in asked_or_named:
            try:
                _check_cards(self.load(ref))
            except ExperimentError as error:
                raise pytest.UsageError(f"{error}{self._hint(ref)}") from None
        self._check_store()
        self._check_hardware()

    def _check_store(self) -> None:
        if not is_url(self.settings.store) and not self.settings.store_readonly:
            return  # a folder to write to is made when something is kept

        try:
            _ = self.store
        except StoreError as error:
            raise pytest.UsageError(f"--finetune-store: {error}") from None

    def _named_in_ini(self) -> bool:
        return self.settings.experiments != (DEFAULT_EXPERIMENT,)

    def _check_hardware(self) -> None:
        if self.settings.budget:
            try:
                parse_budget(self.settings.budget)
            except ValueError as error:
                raise pytest.UsageError(f"--finetune-budget={self.settings.budget!r}: {error}") from None
        try:
            parse_share(self.settings.headroom or "0%")
        except ValueError as error:
            raise pytest.UsageError(f"--finetune-headroom: {error}") from None
        if self.settings.executor != LOCAL:
            return  # the card is where the jobs run
        wants_gpu = self.settings.require_gpu or self.settings.device.startswith(("cuda", "mps"))
        if wants_gpu and self.settings.asked and accelerator() == "cpu":
            why = (
                "--finetune-require-gpu"
                if self.settings.require_gpu
                else f"--finetune-device={self.settings.device}"
            )
            raise pytest.UsageError(f"{why}: there is no accelerator here, or this torch build cannot use it")
        if self.settings.device.startswith("cuda:"):
            refuse_missing(self.settings.device)

    def receive(self, report: pytest.TestReport) -> None:
        """Take what a report carries and says, where reports arrive."""
        self.evidence.receive(report)
        self.whole.receive(report)

    def enter(self, item: pytest.Item) -> None:
        """Know the test that runs, for what fails in it to be named after it."""
        self.item = item
        self.gate.running = item.nodeid

    def close_gate(self, ref: ExperimentRef, stage: Stage, by: str, because: str) -> None:
        """Close the later stages of an experiment, also of one whose file cannot be used."""
        if ref in self._runs:
            self._runs[ref].close_gate(stage, by, because)
        else:
            self.gate.close(ref, stage, by, because)

    def parametrize(self, metafunc: pytest.Metafunc) -> None:
        """Give a test of ours its experiments."""
        collection.parametrize(metafunc, self.refs)

    def bring_rule_files(self) -> None:
        """Let a decision that is asked for alone find its rules."""
        if self._brings_rules:
            self.selection.bring_rule_files(lambda name: self.store.last(name))

    def settle(self, items: list[pytest.Item], collected: Sequence[pytest.Item]) -> None:
        """Leave the tests that run, by stage."""
        self.selection.settle(items, collected, self.refs)

    def rules_of(self, ref: ExperimentRef) -> Sequence[pytest.Item]:
        """Return every collected rule of an experiment, selected or not."""
        return self.selection.rules.get(ref, ())

    def warnings(self) -> list[str]:
        """Return what the store set aside or passed over, and why no GPU was leased; asks nothing that was not used."""
        store = self.store.warnings if "store" in self.__dict__ else ()
        chosen = self.chosen.warnings if "chosen" in self.__dict__ else ()
        return [*store, *chosen]

    def narrowed(self) -> list[str]:
        """Return what narrows this run, as it was written."""
        return collection.narrowing(self.config, self.selection.given)

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


def _check_cards(experiment: Experiment) -> None:
    """Raise ExperimentError for a card of the jobs that our table does not know."""
    for number, name in enumerate(experiment.executor.cards):
        try:
            find_card(name)
        except UnknownCardError as error:
            raise ExperimentError(located(experiment, ("executor", "cards", number), str(error))) from None
