"""The page that pytest-html writes: where it goes, when it is dropped, and when the user's own is copied."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_finetune.record.views.page.document import page_title
from pytest_finetune.suite import xdist
from pytest_finetune.suite.closing.html_safety import escaped, named

if TYPE_CHECKING:
    import pytest

    from pytest_finetune.suite.session import FinetuneSession

REPORT = "report.html"


def set_default(config: pytest.Config, record: Path) -> bool:
    """Ask pytest-html for a self-contained page beside the record, unless the user named one; True when we did."""
    if (
        xdist.is_worker(config)
        or not available(config)
        or config.option.collectonly
        or config.option.htmlpath
    ):
        return False
    config.option.htmlpath = str(record / REPORT)
    config.option.self_contained_html = True
    return True


def available(config: pytest.Config) -> bool:
    """Tell whether pytest-html is there."""
    return hasattr(config.option, "htmlpath")


class Page:
    """What becomes of pytest-html's page."""

    def __init__(self, state: FinetuneSession) -> None:
        config = state.config
        self._config = config
        self._record = state.settings.record
        self._there = self._record.exists()
        self._ours = state.settings.finetune and set_default(config, self._record)
        self.titles: list[Any] = []

    @property
    def expected(self) -> bool:
        """Tell whether a page will be written."""
        return available(self._config) and bool(self._config.option.htmlpath)

    def set_title(self, record: Mapping[str, Any]) -> None:
        """Let the title carry the verdict."""
        for report in self.titles:
            report.title = page_title(record)

    def escape_environment(self) -> None:
        """Escape the values of pytest-html's environment table, which it puts on the page as markup.

        They hold a branch's name in CI (pytest-html #1024).
        """
        for report in self.titles:
            report.set_data("environment", escaped(report.data.get("environment", {})))

    def divert(self) -> None:
        """Nothing of ours ran: let the page that only we asked for be written nowhere."""
        for plugin in self._writers():
            plugin._report_path = Path(os.devnull)

    def drop(self) -> None:
        """Leave no trace of a page that was diverted: no line in the terminal, no empty folder."""
        for plugin in self._writers():
            self._config.pluginmanager.unregister(plugin)
        if self._ours and not self._there:
            with contextlib.suppress(OSError):
                self._record.rmdir()

    def _writers(self) -> list[Any]:
        """Return pytest-html's page writers, when the page is ours to decide about."""
        if not self._ours:
            return []
        plugins = self._config.pluginmanager.get_plugins()
        return [
            plugin
            for plugin in plugins
            if type(plugin).__module__.startswith("pytest_html.") and hasattr(plugin, "_report_path")
        ]

    def finish(self) -> None:
        """Complete the page beside the record: ours as it is, or a copy of the one that the user asked for."""
        if not self.expected:
            return
        self._copy()
        target = self._record / REPORT
        if target.is_file():
            source = target.read_text(encoding="utf-8")
            target.write_text(named(source), encoding="utf-8")

    def _copy(self) -> None:
        if self._ours:
            return
        source = (Path.cwd() / Path(self._config.option.htmlpath).expanduser()).resolve()
        target = self._record / REPORT
        if source != target.resolve() and source.is_file():
            shutil.copyfile(source, target)
