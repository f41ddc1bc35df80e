from __future__ import annotations

import doctest
from pathlib import Path

from pytest_finetune.store import folders, gc, leftovers

PAGE = Path(__file__).parents[2] / "docs" / "store.md"


def test_the_examples_on_the_page_run_as_printed() -> None:
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.attempted >= 7
    assert results.failed == 0


def test_the_page_names_the_limits_that_the_code_has() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert ("after\ntwelve hours" in page, folders.LOCK_TIMEOUT_S) == (True, 12 * 3600)
    assert ("killed writers after a day" in page, gc._LEFTOVER_S) == (True, 24 * 3600)
    assert ("set aside after a month" in page, gc._SET_ASIDE_S) == (True, 30 * 24 * 3600)
    assert {pattern.partition("/")[0] for pattern in leftovers.PLACES if "/" in pattern} <= {
        name for name in ("last", "pins", "digests", "checkpoints", "unsent") if name in page
    }
