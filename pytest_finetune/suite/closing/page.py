"""The page: pytest-html writes it, asked through its public hooks, and a copy goes into the record's folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Any, Final

import pytest

from pytest_finetune import __version__
from pytest_finetune.record.model import Recorded
from pytest_finetune.record.views.page.document import page_title, summary_html
from pytest_finetune.record.views.page.html import text
from pytest_finetune.wording import visible

REPORT: Final = "report.html"
NO_PYTEST_HTML: Final = "no report.html: pytest-html is not installed or switched off"
_OURS: Final = "finetune"  # what pytest calls the distribution pytest-finetune
_TEST_ID: Final = '<td class="col-testId">'


class Page:
    """Asks pytest-html for a page that carries the record; registered as a plugin where reports arrive.

    pytest-html writes to the place that the user named, or to a temporary folder: an earlier page survives a run
    without a test of ours, and a record folder that cannot be written is never pytest-html's trouble.
    """

    def __init__(self, config: pytest.Config, *, finetune: bool) -> None:
        self._config = config
        self._finetune = finetune and available(config) and not config.option.collectonly
        self._report: Any = None
        self._title: str | None = None
        self._fragment: str | None = None
        self._temporary: Path | None = None
        if self._finetune:
            self._ask()

    def _ask(self) -> None:
        """Set pytest-html's options before it reads them."""
        option = self._config.option
        option.self_contained_html = True  # a copy of the page has to stand alone
        if option.htmlpath:
            _make_room(option.htmlpath)
        else:
            self._temporary = Path(tempfile.mkdtemp(prefix="finetune-page-"))
            self._config.add_cleanup(partial(shutil.rmtree, self._temporary, ignore_errors=True))
            option.htmlpath = str(self._temporary / REPORT)

    @property
    def expected(self) -> bool:
        """Tell whether a page will be written."""
        return available(self._config) and bool(self._config.option.htmlpath)

    def show(self, record: Recorded, answers: Mapping[str, Any]) -> None:
        """Put the record on the page that is about to be written."""
        if self.expected:
            self._title, self._fragment = page_title(record), summary_html(record, answers)

    @property
    def own_place(self) -> str:
        """Return where the user wants the page; empty where only we asked for one."""
        return "" if self._temporary else str(self._config.option.htmlpath or "")

    def is_at_fault(self, error: OSError) -> bool:
        """Tell whether an error was met where pytest-html writes its page."""
        return self._finetune and any(
            str(frame.f_globals.get("__name__", "")).startswith("pytest_html")
            for frame, _ in walk_tb(error.__traceback__)
        )

    def copy_to(self, folder: Path) -> None:
        """Copy the finished page to `folder`; raise OSError where that fails."""
        if self.expected:
            path = _place(self._config.option.htmlpath)
            target = folder / REPORT
            if path.is_file() and path.resolve() != target.resolve():
                shutil.copyfile(path, target)

    def retire(self) -> None:
        """Keep pytest-html from announcing its page in the temporary folder."""
        manager = self._config.pluginmanager
        for plugin in manager.get_plugins() if self._temporary else ():
            if type(plugin).__module__.startswith("pytest_html."):
                manager.unregister(plugin)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        """Escape the links of a test: pytest-html puts their names and addresses on the page as markup."""
        if self._finetune and getattr(report, "extras", None):
            report.extras = [_safe_link(extra) for extra in report.extras]

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_report_title(self, report: Any) -> None:
        """Take hold of the page's title, to set it when the verdict is known."""
        self._report = report

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_html_results_table_row(self, report: Any, cells: list[str]) -> None:
        """Escape test ids, which pytest-html puts on the page as markup (pytest-html #1024)."""
        if self._finetune:
            escape_test_id(report.nodeid, cells)

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_html(self, data: list[str]) -> None:
        """Spell out the control and bidirectional characters of logs; line breaks and colours stay."""
        if self._finetune:
            data[:] = [visible(log, keep="\n\t\x1b") for log in data]

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        """Let the title carry the verdict, and open the page with the record."""
        if self._fragment is not None:
            self._report.title = self._title
            prefix.append(self._fragment)


def _place(page: str) -> Path:
    """Return where pytest-html writes a page of this name."""
    return Path.cwd() / Path(os.path.expandvars(page)).expanduser()


def _make_room(page: str) -> None:
    """Make the folder of the user's page as pytest-html would, whose error would be a traceback."""
    folder = _place(page).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise pytest.UsageError(
            f"--html={page}: the folder {str(folder)!r} cannot be made ({error.strerror or error}): "
            "name another file"
        ) from None


def available(config: pytest.Config) -> bool:
    """Tell whether pytest-html is there."""
    return hasattr(config.option, "htmlpath")


def escape_test_id(nodeid: str, cells: list[str]) -> None:
    """Escape the cell that pytest-html filled with a raw test id; a cell of another plugin is left alone."""
    for place, cell in enumerate(cells):
        if isinstance(cell, str) and cell.startswith(_TEST_ID + nodeid) and cell.endswith("</td>"):
            cells[place] = f"{_TEST_ID}{text(cell[len(_TEST_ID) : -len('</td>')])}</td>"


def _safe_link(extra: Mapping[str, Any]) -> dict[str, Any]:
    parts = ("name", "content") if extra["format_type"] == "url" else ("name",)
    return {**extra, **{part: text(extra[part]) for part in parts}}


def escape_metadata(metadata: dict[str, Any]) -> None:
    """Escape what pytest-html's table of the environment puts on the page as markup, a branch's name in CI, say.

    Our own version in it is the one that record and bundle name: that of the code that runs.
    """
    plugins = metadata.get("Plugins")
    if isinstance(plugins, dict) and _OURS in plugins:
        plugins[_OURS] = __version__
    metadata.update({key: _escaped(value) for key, value in metadata.items()})


def _escaped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_escaped(key): _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(inner) for inner in value]
    return str(text(value))
