"""Whether a run is whole: the tests that were collected against those that ran, whoever left the others out.

Options are one way to leave tests out (`collection.narrowing` reads them); a plugin, a conftest, ``-x`` and
``--setup-only`` are others, and leave the same trace: a test of ours that was collected and never ran.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import pytest

from pytest_finetune import wording
from pytest_finetune.suite.collection import place_of

if TYPE_CHECKING:
    from pytest_finetune.suite.evidence import TestOutcome


class Told(TypedDict):
    """What an xdist worker tells the controller, which collects nothing itself."""

    collected: list[str]
    files: list[str]


class Wholeness:
    """Registered in every process: what it collected, and, where reports arrive, what ran."""

    def __init__(self) -> None:
        self._items: list[pytest.Item] = []
        self._collected: dict[str, None] = {}
        self._files: set[str] = set()
        self._ran: set[str] = set()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take what a collector found, before anybody can drop it from the session's items."""
        self._files.add(report.nodeid.partition("::")[0])
        found = getattr(report, "result", None) or ()
        self._items += [node for node in found if isinstance(node, pytest.Item)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self) -> None:
        """Keep the names of our tests; by now plugins have given them their last ones."""
        self._collected = {item.nodeid: None for item in self._items if place_of(item) is not None}
        self._items = []

    def receive(self, report: pytest.TestReport) -> None:
        """Note which tests were called, or came to an end before."""
        if report.when == "call" or not report.passed:
            self._ran.add(report.nodeid)

    def told(self) -> Told:
        """Return what this process collected, in plain values."""
        return {"collected": list(self._collected), "files": sorted(self._files)}

    def hear(self, told: Told) -> None:
        """On the xdist controller: take what a worker collected."""
        self._collected.update(dict.fromkeys(told["collected"]))
        self._files.update(told["files"])

    def left_out(self, last: Iterable[Mapping[str, Any] | None], root: Path) -> list[str]:
        """Return, a sentence each, which tests never ran, and which files of the `last` whole runs were passed over."""
        not_run = [nodeid for nodeid in self._collected if nodeid not in self._ran]
        said = []
        if not_run:
            what = "test was" if len(not_run) == 1 else "tests were"
            said.append(f"{len(not_run)} {what} collected and did not run: {wording.listed(not_run)}")
        for file, names in (
            (file, names) for run in last for file, names in (run or {}).get("tests", {}).items()
        ):
            text = "" if file in self._files else _text(root / file)
            there = [name for name in names if f"def {name}(" in text]
            if there:
                said.append(
                    f"{file} was not collected, and its tests ran in the last whole run: {wording.listed(there)}; "
                    "let it be collected again, or take them out of it"
                )
        return said


def outline(tests: Iterable[TestOutcome]) -> dict[str, Any]:
    """Return the tests of a whole run by file, for later runs to be held against."""
    by_file: dict[str, set[str]] = {}
    for test in tests:
        file, _, names = test.nodeid.partition("::")
        by_file.setdefault(file, set()).add(names.partition("[")[0].rpartition("::")[2])
    return {"tests": {file: sorted(names) for file, names in sorted(by_file.items())}}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
