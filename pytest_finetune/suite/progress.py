"""The training's progress in the terminal, also while pytest captures the output."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from pytest_finetune.suite import xdist

if TYPE_CHECKING:
    import pytest

    from pytest_finetune.suite.heartbeat import Heartbeat
    from pytest_finetune.training.request import Progress

_EVERY_S = 10.0


def line_of(progress: Progress, name: str) -> str:
    """Return one line: step, loss, speed, time left, memory.

    >>> from pytest_finetune.training.request import Progress
    >>> line_of(Progress(120, 240, 0.4321, 30.0, 31.2, 1520.0, 1.0, 3 * 2**29), "finetune")
    'finetune: training step 120/240 (50%)  loss 0.432  1520 tokens/s  31 s left  1.5 GiB'
    """
    share = progress.step / progress.steps if progress.steps else 0.0
    parts = [f"{name}: training step {progress.step}/{progress.steps} ({share:.0%})"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.tokens_per_s:
        parts.append(f"{progress.tokens_per_s:.0f} tokens/s")
    parts.append(f"{_duration(progress.eta_s)} left")
    if progress.memory_bytes:
        parts.append(f"{progress.memory_bytes / 2**30:.1f} GiB")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60} min"


class ProgressLine:
    """Shows one training: rewritten in place on a terminal, whole lines from an xdist worker and in a log."""

    def __init__(self, config: pytest.Config, name: str, beat: Heartbeat | None = None) -> None:
        self._beat = beat
        self._name = name
        self._config = config
        self._worker = xdist.is_worker(config)
        self._reporter = config.pluginmanager.get_plugin("terminalreporter")
        self._live = not self._worker and self._reporter is not None and self._reporter.isatty
        self._last_s = float("-inf")
        self._open = False

    def show(self, progress: Progress) -> None:
        """Show where the training stands."""
        text = line_of(progress, self._name)
        if self._beat is not None:
            self._beat.say("" if self._live else text)
        if self._live:
            self._rewrite(text)
        elif self._worker and self._due(progress):
            with self._uncaptured():  # else this is the capture's file, and never a terminal
                if os.isatty(2):  # a log is told by the heartbeat
                    worker = self._config.workerinput["workerid"]  # type: ignore[attr-defined]
                    os.write(2, f"[{worker}] {text}\n".encode())

    def begin(self, part: str) -> None:
        """Hear which part of the work begins, or, without a name, that none goes on; what takes long is told."""
        if self._beat is None:
            return
        self._end_line()
        if part and not self._live and not self._worker:
            self._write("")  # what pytest printed so far comes before it
        self._beat.at(self._name, part)

    def note(self, text: str) -> None:
        """Hear how far the part is that goes on."""
        if self._beat is not None:
            self._beat.note(text)

    def say(self, text: str) -> None:
        """Print one whole line, such as who holds a lock that is waited for; also where there is no terminal.

        A run that waits on a CI machine must not look like one that hangs.
        """
        if self._worker:
            with self._uncaptured():
                os.write(2, f"{text}\n".encode())
        else:
            self._end_line()
            self._write(f"\n{text}\n")

    def warn(self, text: str) -> None:
        """Print one whole line as a warning."""
        if self._worker or self._reporter is None:
            os.write(2, f"{text}\n".encode())
            return
        with self._uncaptured():
            self._reporter.ensure_newline()
            self._reporter.write_line(f"warning: {text}", yellow=True)

    def close(self) -> None:
        """Leave the terminal as the next line expects it."""
        self._end_line()

    def _due(self, progress: Progress) -> bool:
        if progress.seconds - self._last_s < _EVERY_S and progress.step < progress.steps:
            return False
        self._last_s = progress.seconds
        return True

    def _rewrite(self, text: str) -> None:
        width = self._reporter._tw.fullwidth if self._reporter else 80
        if not self._open:
            self._write("\n")
            self._open = True
        self._write("\r\x1b[2K" + text[: width - 1])

    def _end_line(self) -> None:
        if self._open:
            self._write("\r\x1b[2K\x1b[1A")
            self._open = False

    def _write(self, text: str) -> None:
        with self._uncaptured():
            self._put(text)

    def _uncaptured(self) -> contextlib.AbstractContextManager[Any]:
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        return contextlib.nullcontext() if capture is None else capture.global_and_fixture_disabled()

    def _put(self, text: str) -> None:
        stream = self._reporter._tw._file if self._reporter is not None else sys.__stderr__
        if stream is not None:
            stream.write(text)
            stream.flush()
