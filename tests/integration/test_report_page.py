"""The whole report, as pytest-html writes it around our fragment, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import pytest

from benchmarks.chromium import AXE, CHROMIUM, NO_AXE, Browser, Tab

if TYPE_CHECKING:
    from .conftest import Project

OVERFLOW: Final = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
ALL_OPEN: Final = """document.querySelectorAll('details').forEach(one => one.open = true);
  document.querySelectorAll('.ft-row').forEach((one, at) => at < 6 ? one.style.contentVisibility = 'visible' : one.remove());
  document.querySelectorAll('.collapsed').forEach(one => one.click())"""
CUT_LOGS: Final = """[...document.querySelectorAll('.log')].filter(one => one.checkVisibility()).filter(one =>
  one.scrollHeight > one.clientHeight + 1 || one.parentElement.scrollHeight > one.parentElement.clientHeight + 1).length"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"
)


@pytest.fixture
def tabs(project: Project) -> Iterator[Iterator[Tab]]:
    """The report of a run with failed tests, everything on it unfolded: on a phone and a desk, in both themes."""
    project.says("tuned", 5, other="a long answer without an end " * 20)
    project.run("--finetune")
    report = project.path / "finetune-record" / "report.html"

    def opened(browser: Browser) -> Iterator[Tab]:
        for dark in (False, True):
            for width in (380, 1280):
                tab = browser.open(report, width, dark=dark)
                tab.evaluate(ALL_OPEN)
                yield tab
                tab.close()

    with Browser() as browser:
        yield opened(browser)


def test_the_whole_report_fits_and_cuts_no_log(tabs: Iterator[Tab]) -> None:
    for tab in tabs:
        assert tab.evaluate("document.querySelectorAll('.log').length") > 0
        assert tab.evaluate(CUT_LOGS) == 0
        assert tab.evaluate(OVERFLOW) == 0


@pytest.mark.skipif(not AXE.is_file(), reason=NO_AXE)
def test_axe_finds_nothing_serious_on_the_whole_report(tabs: Iterator[Tab]) -> None:
    assert [tab.serious() for tab in tabs] == [[]] * 4
