"""An arm's rate among the answers that have the task's format, beside how many have it."""

from __future__ import annotations

from pytest_finetune.judging.score import Score
from pytest_finetune.judging.statistics.levels import Levels


def score(*values: float) -> Score:
    rows = tuple(f"r{place}" for place in range(len(values)))
    return Score("label", "baseline", Levels(), rows, values)


def test_the_rate_among_the_readable_is_that_of_these_rows_alone() -> None:
    found = score(1, 0, 0, 0, 1, 0).apart([True, True, True, False, True, False])
    assert (found["readable"], found["total"]) == (4, 6)
    assert found["primary"] == score(1, 0, 0, 1).facts()
    assert found["interval"] == score(1, 1, 1, 0, 1, 0).facts()["interval"]


def test_where_nothing_can_be_read_there_is_no_rate() -> None:
    found = score(0, 0, 0).apart([False] * 3)
    assert found["readable"] == 0
    assert found["primary"] is None
