"""Sessions of pytest in processes of their own, each with its seconds, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def start(project: Path, *words: str) -> subprocess.Popen[bytes]:
    """Begin a session of a project, in a group of processes of its own; what it says goes to ``log.txt`` there."""
    command = [sys.executable, "-m", "pytest", "--finetune", "-q", "-p", "no:cacheprovider", *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (project / "log.txt").open("wb") as log:
        return subprocess.Popen(
            command, cwd=project, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def run_session(project: Path, limit_s: float, *words: str) -> int | None:
    """Run a session to its end, and return its exit code; None where it took longer than its seconds."""
    return ended(start(project, *words), limit_s)


def ended(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """Wait for a session; None where it took longer, and was ended with the processes that it had started."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a session that is still running, with the processes that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End the block with a TimeoutError, whatever it waits for."""

    def over(*_: object) -> None:
        raise TimeoutError(f"it was ended after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def record_of(project: Path) -> Mapping[str, Any]:
    """Return what the record of a project's session says of its experiment; nothing where it wrote none."""
    file = project / "finetune-record/record.json"
    if not file.is_file():
        return {}
    found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))["experiments"][0]
    return found


def last_lines(project: Path, count: int = 6) -> list[str]:
    """Return the end of what a project's session said."""
    return (project / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
