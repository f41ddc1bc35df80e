"""What a step says while it runs: printed where it runs, and told to the store for whoever waits for it."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.executors.masking import masked
from pytest_finetune.executors.outcomes import RUNNING
from pytest_finetune.store import StoreError
from pytest_finetune.store.disk import host_name
from pytest_finetune.suite.progress import line_of
from pytest_finetune.wording import visible

if TYPE_CHECKING:
    from pytest_finetune.store.jobs import JobBook
    from pytest_finetune.training.request import Progress

EVERY_S: Final = 5.0
_LINES: Final = 20


class Telling:
    """One attempt at a step. It tells at once that it runs, then every few seconds, so that silence means its end."""

    def __init__(self, book: JobBook, key: str, number: int, every_s: float = EVERY_S) -> None:
        self._book, self._key, self._number = book, key, number
        self._log: deque[str] = deque(maxlen=_LINES)
        self._facts: dict[str, Any] = {
            "state": RUNNING,
            "host": host_name(),
            "beat": 0,
            "progress": None,
            "part": "",
        }
        self._name = f"step {key[:12]}"
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._beat, args=(every_s,), name="finetune-step", daemon=True)
        self._thread.start()

    def end(self, state: str, text: str = "", **facts: Any) -> None:
        """Tell how the step ended; StoreError when the store does not take it."""
        self._over.set()
        self._thread.join()
        if text:
            self.say(text)
        self._facts |= {"state": state, "text": masked(text), **facts}
        self._write()

    def show(self, progress: Progress) -> None:
        """Tell where the training stands."""
        self._facts["progress"] = dataclasses.asdict(progress)
        self._print(line_of(progress, self._name))

    def begin(self, part: str) -> None:
        """Tell which part of the work begins."""
        self._facts["part"] = part

    def note(self, text: str) -> None:
        """Tell how far that part is."""
        self._facts["part"] = text

    def say(self, text: str) -> None:
        """Print a text, and keep its lines for the end of the log."""
        for line in text.splitlines():
            self._print(line)

    def warn(self, text: str) -> None:
        """Print one whole line as a warning."""
        self.say(f"warning: {text}")

    def close(self) -> None:
        """Leave the terminal as it is: every line is whole."""

    def _print(self, line: str) -> None:
        shown = visible(masked(line))
        with self._lock:
            self._log.append(shown[:300])
        print(shown, flush=True)

    def _beat(self, every_s: float) -> None:
        while not self._over.wait(every_s):
            with suppress(StoreError):  # the next beat tries again; the end must not be lost, and says so
                self._write()

    def _write(self) -> None:
        with self._lock:
            self._facts["beat"] += 1
            self._book.tell(self._key, self._number, {**self._facts, "log": list(self._log)})
