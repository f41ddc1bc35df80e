"""What takes long says that it is at work: a line at most every ten seconds, in a log of CI and under xdist too.

The line goes past the capture of the tests, to what was the terminal when the session began. What is quick is silent.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pytest_finetune.suite import xdist
from pytest_finetune.wording import duration

if TYPE_CHECKING:
    import pytest

EVERY_S: Final = 10.0
_WORDS: Final = {
    "data": "reading and checking the rows",
    "plan": "planning the memory",
    "training": "preparing the training",
    "drift": "measuring drift",
    "answers to replay": "asking the base what is replayed",
    "noise runs": "asking the base again",
    "rules": "judging the answers",
}


class Heartbeat:
    """Hears which part of the work begins (`at`) and tells of it from a thread of its own while it lasts."""

    def __init__(self, write: Callable[[str], None], every_s: float = EVERY_S) -> None:
        self._write = write
        self._every_s = every_s
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._part = self._text = ""
        self._began_s = self._told_s = 0.0

    @classmethod
    def of(cls, config: pytest.Config) -> Heartbeat | None:
        """Return that of a session; None where nobody reads. Called while pytest captures nothing yet."""
        worker = xdist.is_worker(config)
        if not worker and not config.pluginmanager.has_plugin("terminal"):  # its reporter comes later
            return None
        try:
            out = os.dup(2 if worker else 1)
        except OSError:
            return None
        config.add_cleanup(lambda: os.close(out))
        before = f"[{config.workerinput['workerid']}] " if worker else ""  # type: ignore[attr-defined]
        return cls(lambda text: _put(out, f"{before}{text}\n"))

    def at(self, name: str, part: str) -> None:
        """Hear that a part of an experiment's work begins; without a part, that none goes on."""
        self._part = f"{name}: {_WORDS.get(part, part)}" if part else ""
        with self._lock:  # before the thread may look, which would tell of another part's time
            self._text = self._part
            self._began_s = self._told_s = time.monotonic()
        self._start()

    def note(self, text: str) -> None:
        """Hear how far the part is."""
        self.say(f"{self._part}: {text}")

    def say(self, text: str) -> None:
        """Let the next line be another, such as the step that a training has reached."""
        with self._lock:
            self._text = text
        self._start()

    def _start(self) -> None:
        if self._text and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="finetune-heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every_s / 10):
            with self._lock:
                now = time.monotonic()
                due = self._text and now - self._told_s >= self._every_s
                text = f"{self._text}  ({duration(now - self._began_s)})"
                if due:
                    self._told_s = now
            if due:
                self._write(text)


def _put(out: int, text: str) -> None:
    try:
        os.write(out, text.encode())
    except OSError:  # the other end of a pipe was closed: nobody reads
        return
