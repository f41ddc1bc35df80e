"""The end of a session: evidence becomes the record, the page, the terminal's last lines and, when earned, a bundle."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune import wording
from pytest_finetune.answering.joining import BY_QUESTION
from pytest_finetune.memory.hardware.detect import disk_free_bytes
from pytest_finetune.record.model import RecordedRun
from pytest_finetune.record.partial import NARROWED, folder_for, why_partial
from pytest_finetune.record.views.terminal import summary_lines
from pytest_finetune.record.views.terminal.layout import Line
from pytest_finetune.record.write import as_written, size_of, write_record
from pytest_finetune.store import is_full
from pytest_finetune.suite import xdist
from pytest_finetune.suite.closing.github_actions import publish, workflow_commands
from pytest_finetune.suite.closing.page import NO_PYTEST_HTML, Page
from pytest_finetune.suite.closing.promotion import promote
from pytest_finetune.suite.closing.recording import build_record, keep
from pytest_finetune.suite.rules.invariance import write_candidates
from pytest_finetune.suite.rules.judge_labels import write_templates
from pytest_finetune.suite.tracking import check, told
from pytest_finetune.wording import visible

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

    from pytest_finetune.suite.session import FinetuneSession


class Closing:
    """Registered where reports arrive: in the only process, or on the xdist controller."""

    def __init__(self, state: FinetuneSession) -> None:
        self.state = state
        self.folder: Path = state.settings.record
        self.record: dict[str, Any] | None = None
        self.run = RecordedRun.of(None)
        self.partial = ""
        self.answers: Mapping[str, Mapping[str, Sequence[Any]]] = {}
        self.refusals: Sequence[str] = ()
        self.unwritten: Sequence[str] = ()
        self.fault = ""
        self.page = Page(state.config, finetune=state.settings.finetune)
        self._told_by_workers: list[str] = []
        self.tracked: Sequence[str] = ()
        check(state.trackers)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the evidence that a report carries."""
        self.state.receive(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: WorkerController) -> None:
        """Take what the store had to say on a worker, and what was collected there."""
        warnings, collected = xdist.told(node)
        self._told_by_workers += warnings
        self.state.whole.hear(collected)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None, Any, Any]:
        """Write the record before pytest-html writes its page, and the bundle after it.

        Innermost among the wrappers: the terminal's summary, which is one too, comes after all of it.
        """
        self.state.record_times()
        self.state.evidence.take(self.state.outbox)
        if self.state.evidence.tests:
            self._record(int(exitstatus))
        result = None
        try:
            result = yield
        except OSError as error:
            if not self.page.is_at_fault(error):
                raise
            self._blame(error)
        self.page.retire()
        if self.record is None:
            self._refuse_without_evidence(session)
        elif self.state.settings.finetune:
            self._copy_page()
            self._promote(session)
            self.unwritten = publish(self.run, self.folder)
            self.tracked = list(told(self.state.trackers, self.record, self._tracked_runs))
            if self.fault:
                _fail(session)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Generator[None, Any, Any]:
        """Print our section as the last one."""
        result = yield
        if self.record is not None:
            self._print(terminalreporter)
        elif self.refusals:
            terminalreporter.write_sep("=", "finetune")
            self._print_promotion(terminalreporter)
        return result

    def _record(self, exitstatus: int) -> None:
        notes = self._notes(interrupted=exitstatus == pytest.ExitCode.INTERRUPTED)
        self.record, self.answers = build_record(self.state, exitstatus, self._command(), notes)
        if self.state.settings.finetune:
            keep(self.state, self.record)
            self.record = as_written(self.record)
        self.run = RecordedRun.of(self.record)
        if self.state.settings.finetune:
            self._write(self.record)
        self.page.show(self.run, self.answers)

    def _write(self, record: Mapping[str, Any]) -> None:
        """Write the record's folder, and hand the record to the plugins that want it."""
        self.partial = why_partial(self.run)
        folder = self.folder = folder_for(self.state.settings.record, self.partial)
        try:
            write_record(folder, record, self.answers, self.run)
            for experiment in record["experiments"]:
                write_candidates(folder, experiment["rules"])
                write_templates(folder, experiment, self.answers.get(experiment["name"], {}))
        except OSError as error:
            self._blame_folder(error)
        else:
            self.state.config.hook.pytest_finetune_record(record=record, directory=folder)

    def _copy_page(self) -> None:
        if self.fault:
            return
        try:
            self.page.copy_to(self.folder)
        except OSError as error:
            self._blame_folder(error)

    def _blame(self, error: OSError) -> None:
        """Say in one sentence where the page could not be written: in its user's own place, or in one of ours."""
        if self.page.own_place:
            self.fault = self.fault or (
                f"the page cannot be written to {self.page.own_place} ({error.strerror or error}): "
                f"{self._room(error, Path(self.page.own_place).absolute())}, or name another file with --html=FILE"
            )
        else:
            self._blame_folder(error)

    def _blame_folder(self, error: OSError) -> None:
        """Say in one sentence that the record's folder cannot take what belongs there; the first fault stands."""
        self.fault = self.fault or (
            f"the record cannot be written to {self._folder()} ({error.strerror or error}): "
            f"{self._room(error, self.state.settings.record)}, or name another folder with --finetune-record=DIR"
        )

    def _room(self, error: OSError, place: Path) -> str:
        """Say what lets a place be written to; of a full disk also what is free there and what the record takes."""
        if not is_full(error):
            return "let it be written to"
        needed = size_of(self.record or {}, self.answers)
        free = wording.size(disk_free_bytes(place))
        return f"make room there ({free} are free, the record takes {wording.size(needed)})"

    def _tracked_runs(self, experiment: str) -> Mapping[str, str]:
        tree = self.state.evidence.tree(experiment)
        found: Mapping[str, str] = tree.get("tracked", {}).get(tree.get("key"), {})
        return found

    def _folder(self) -> str:
        base = self.state.config.invocation_params.dir
        return str(self.folder.relative_to(base) if self.folder.is_relative_to(base) else self.folder)

    def _command(self) -> str:
        return shlex.join(["pytest", *map(str, self.state.config.invocation_params.args)])

    def _notes(self, *, interrupted: bool) -> list[str]:
        notes = []
        if self.state.settings.finetune and not self.page.expected:
            notes.append(NO_PYTEST_HTML)
        narrowed = self.state.narrowed()
        left_out = [] if interrupted else self.state.left_out()
        if narrowed or left_out:
            notes.append(f"{NARROWED}: {'; '.join([*filter(None, [', '.join(narrowed)]), *left_out])}")
        notes += _joined_by_question(self.state)
        return list(dict.fromkeys(notes + self._told_by_workers + self.state.warnings()))

    def _promote(self, session: pytest.Session) -> None:
        if self.state.settings.promote is None:
            return
        assert self.record is not None
        refused = [self.fault] if self.fault else []
        self.refusals = refused or promote(self.state, self.record, int(session.exitstatus))
        if self.refusals:
            _fail(session)

    def _refuse_without_evidence(self, session: pytest.Session) -> None:
        """Refuse a promotion that no test ran for; the run is not green."""
        if self.state.settings.promote is None or session.config.option.collectonly:
            return
        narrowed = self.state.narrowed()
        why = f" (the run was narrowed: {', '.join(narrowed)})" if narrowed else ""
        self.refusals = [f"no data, fit, rule or decision test ran{why}", *self.state.left_out()]
        _fail(session)

    def _print(self, terminalreporter: Any) -> None:
        lines = summary_lines(self.run, self._folder(), terminalreporter._tw.fullwidth)
        if self.fault:  # the last line would name a file that is not there
            lines[-1] = Line(visible(self.fault), "red")
        elif self.folder != self.state.settings.record:
            lines.append(
                Line(f"no whole run: {self.partial}; the record of the last whole one stays beside it")
            )
        terminalreporter.write_sep("=", "finetune")
        for line in lines:
            terminalreporter.write_line(line.text, **line.marks)
        if self.state.settings.promote is not None:
            self._print_promotion(terminalreporter)
        for place in self.tracked:
            terminalreporter.write_line(visible(place))
        for complaint in self.unwritten:
            terminalreporter.write_line(visible(complaint), yellow=True)
        for command in workflow_commands(self.run):
            terminalreporter.write_line(command)

    def _print_promotion(self, terminalreporter: Any) -> None:
        for refusal in self.refusals:
            terminalreporter.write_line(f"not promoted: {visible(refusal)}", red=True)
        if not self.refusals:
            terminalreporter.write_line("promoted: " + ", ".join(self.state.promoted), green=True)


def _joined_by_question(state: FinetuneSession) -> Iterator[str]:
    for experiment in state.evidence.experiments():
        for arm, facts in state.evidence.tree(experiment).get("arms", {}).items():
            if facts.get("joined_by") == BY_QUESTION:
                yield (
                    f"{wording.arm(arm)}: the answers of {facts['path']} stand in another order than their ids "
                    "say, and were matched by their questions"
                )


def _fail(session: pytest.Session) -> None:
    """Let a session that was green end red."""
    if session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
