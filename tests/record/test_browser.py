"""A real browser runs nothing, fetches nothing and keeps the layout on a page full of hostile text."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.record.page import summary_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# Written after the fragment: it reports what a reader would see.
PROBE = """<script>
const apart = '.ft-scroll, svg, .ft-quiet, pre, details:not([open])';
const wide = [...document.querySelectorAll('.ft *')].filter(one =>
  !one.closest(apart) && one.getBoundingClientRect().right > innerWidth + 1);
const root = document.documentElement;
root.dataset.overflow = root.scrollWidth - root.clientWidth;
root.dataset.wide = wide.slice(0, 5).map(one => one.className || one.tagName).join(' ');
root.dataset.fetched = performance.getEntriesByType('resource').length;
root.dataset.top = document.querySelector('.ft h2').getBoundingClientRect().top;
</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

Look = Callable[[str, int], dict[str, str]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Open a fragment in a window of some width; answer with what the probe saw."""

    def opened(fragment: str, width: int) -> dict[str, str]:
        page = tmp_path / "page.html"
        page.write_text(
            f"<!doctype html><meta charset=utf-8><title>t</title><body>{fragment}{PROBE}", encoding="utf-8"
        )
        profile = tmp_path / f"profile-{width}"
        command = [
            str(CHROMIUM),
            *FLAGS,
            f"--user-data-dir={profile}",
            f"--window-size={width},900",
            "--dump-dom",
            page.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
        root = re.search(r"<html[^>]*>", done.stdout.decode("utf-8", "replace"))
        assert root is not None
        return dict(re.findall(r'data-([a-z]+)="([^"]*)"', root.group()))

    return opened


@pytest.mark.parametrize("width", [500, 900, 1600])
def test_hostile_text_neither_runs_nor_breaks_the_layout(hostile_keep: Any, look: Look, width: int) -> None:
    seen = look(summary_html(*hostile_keep), width)
    assert "ran" not in seen
    assert seen["fetched"] == "0"
    assert (seen["overflow"], seen["wide"]) == ("0", "")


@pytest.mark.parametrize("name", ["several", "too_large"])
def test_the_page_fits_a_narrow_window(make: Callable[[str], Any], look: Look, name: str) -> None:
    seen = look(summary_html(*make(name)), 500)
    assert (seen["overflow"], seen["wide"]) == ("0", "")
    assert float(seen["top"]) < 200
