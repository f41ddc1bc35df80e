"""What takes long tells of itself, a line at a time; what is quick does not."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_finetune.suite.heartbeat import Heartbeat


@contextmanager
def beating(every_s: float) -> Iterator[tuple[Heartbeat, list[str], threading.Event]]:
    """A heartbeat whose lines are kept, and an event that is set with each."""
    lines: list[str] = []
    told = threading.Event()

    def write(text: str) -> None:
        lines.append(text)
        told.set()

    beat = Heartbeat(write, every_s)
    yield beat, lines, told
    beat.stop()


def test_a_long_part_is_told_with_what_is_known_of_it() -> None:
    with beating(0.05) as (beat, lines, told):
        beat.at("finetune", "rules")
        assert told.wait(30)
        beat.note("3 of 80")
        while "3 of 80" not in lines[-1]:
            told.clear()
            assert told.wait(30)
        beat.at("finetune", "")
        count = len(lines)
    assert re.fullmatch(r"finetune: judging the answers  \(\d+\.\d s\)", lines[0])
    assert lines[-1].startswith("finetune: judging the answers: 3 of 80  (")
    assert len(lines) - count <= 1


def test_the_time_of_a_part_begins_before_it_is_told_of() -> None:
    lines: list[str] = []
    began: list[float] = []
    beat = Heartbeat(lines.append)
    beat._start = lambda: began.append(beat._began_s)  # type: ignore[method-assign]
    beat.at("finetune", "rules")
    assert began[0] > 0


def test_a_quick_part_is_silent_and_without_a_part_nothing_runs() -> None:
    with beating(60) as (beat, lines, _):
        beat.at("finetune", "")
        assert beat._thread is None
        beat.at("finetune", "plan")
        beat.at("finetune", "")
    assert lines == []
