"""The end of a session: evidence becomes the record, the page, the terminal's last lines and, when earned, a bundle."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune import wording
from pytest_finetune.answering.joining import BY_QUESTION
from pytest_finetune.record.views.page.document import summary_html
from pytest_finetune.record.views.terminal import summary_lines
from pytest_finetune.record.wording import visible
from pytest_finetune.record.write import as_written
from pytest_finetune.suite import xdist
from pytest_finetune.suite.closing import html_page
from pytest_finetune.suite.closing.github_actions import publish, workflow_commands
from pytest_finetune.suite.closing.html_safety import escape_test_id, spell_out
from pytest_finetune.suite.closing.promotion import promote
from pytest_finetune.suite.closing.recording import build_record, keep

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

    from pytest_finetune.suite.session import FinetuneSession

NO_PYTEST_HTML = "no report.html: pytest-html is not installed or switched off"


class Closing:
    """Registered where reports arrive: in the only process, or on the xdist controller."""

    def __init__(self, state: FinetuneSession) -> None:
        self.state = state
        self.record: Mapping[str, Any] | None = None
        self.answers: Mapping[str, Mapping[str, Sequence[Any]]] = {}
        self.refusals: Sequence[str] = ()
        self.unwritten: Sequence[str] = ()
        self.page = html_page.Page(state)
        self._told_by_workers: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the evidence that a report carries."""
        self.state.evidence.receive(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: WorkerController) -> None:
        """Take what the store had to say on a worker."""
        self._told_by_workers += xdist.told(node)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None, Any, Any]:
        """Write the record before pytest-html writes its page, and the bundle after it.

        Innermost among the wrappers: the terminal's summary, which is one too, comes after all of it.
        """
        self.state.evidence.take(self.state.outbox)
        if self.state.evidence.tests:
            self._record(int(exitstatus))
        else:
            self.page.divert()
        result = yield
        if self.record is None:
            self.page.drop()
            self._refuse_without_evidence(session)
        if self.record is not None and self.state.settings.finetune:
            self.page.finish()
            self._promote(session)
            self.unwritten = publish(self.record, self.state.settings.record)
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

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_report_title(self, report: Any) -> None:
        """Keep the page's title to set it when the verdict is known."""
        self.page.titles.append(report)
        if self.state.settings.finetune:
            self.page.escape_environment()

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_html_results_table_row(self, report: Any, cells: list[str]) -> None:
        """Escape test ids, which pytest-html puts on the page as markup (pytest-html #1024)."""
        if self.state.settings.finetune:
            escape_test_id(report.nodeid, cells)

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_html(self, report: Any, data: list[str]) -> None:
        """Spell out the control and bidirectional characters of logs."""
        if self.state.settings.finetune:
            spell_out(data)

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        """Open the page with the record."""
        if self.record is not None:
            prefix.append(self.fragment)

    @cached_property
    def fragment(self) -> str:
        """The record as static HTML."""
        assert self.record is not None
        return summary_html(self.record, self.answers)

    def _record(self, exitstatus: int) -> None:
        self.record, self.answers = build_record(self.state, exitstatus, self._command(), self._notes())
        self.page.set_title(self.record)
        if self.state.settings.finetune:
            keep(self.state, self.record, self.answers)
            self.record = as_written(self.record)

    def _command(self) -> str:
        return shlex.join(["pytest", *map(str, self.state.config.invocation_params.args)])

    def _notes(self) -> list[str]:
        notes = []
        if self.state.settings.finetune and not self.page.expected:
            notes.append(NO_PYTEST_HTML)
        narrowed = self.state.narrowed()
        if narrowed:
            notes.append(f"narrowed run: {', '.join(narrowed)}")
        notes += _joined_by_question(self.state)
        return list(dict.fromkeys(notes + self._told_by_workers + self.state.warnings()))

    def _promote(self, session: pytest.Session) -> None:
        if self.state.settings.promote is None:
            return
        assert self.record is not None
        self.refusals = promote(self.state, self.record, int(session.exitstatus))
        if self.refusals and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _refuse_without_evidence(self, session: pytest.Session) -> None:
        """A promotion that was asked for and had no test to rest on is told, and the run is not green."""
        if self.state.settings.promote is None or session.config.option.collectonly:
            return
        narrowed = self.state.narrowed()
        why = f" (the run was narrowed: {', '.join(narrowed)})" if narrowed else ""
        self.refusals = [f"no data, fit, rule or decision test ran{why}"]
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _print(self, terminalreporter: Any) -> None:
        assert self.record is not None
        where = _relative(self.state.settings.record, self.state.config)
        terminalreporter.write_sep("=", "finetune")
        for line in summary_lines(self.record, where, terminalreporter._tw.fullwidth):
            terminalreporter.write_line(line.text, **line.marks)
        if self.state.settings.promote is not None:
            self._print_promotion(terminalreporter)
        for complaint in self.unwritten:
            terminalreporter.write_line(visible(complaint), yellow=True)
        for command in workflow_commands(self.record):
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


def _relative(path: Any, config: pytest.Config) -> str:
    base = config.invocation_params.dir
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
