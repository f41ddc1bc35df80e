"""A server of our own: started on a free loopback port, awaited, watched, and ended with everything it started."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.experiment.serve_command import filled
from pytest_finetune.fingerprint import sha256_of

HOST: Final = "127.0.0.1"
GRACE_S: Final = 10.0
TAIL_LINES: Final = 15

_SUPERVISOR: Final = Path(__file__).parent / "supervisor.py"
_POLL_S: Final = 0.2
_TAIL_BYTES: Final = 16_384
_LINE_CHARS: Final = 200
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
# No telemetry from what we start, and no question to the hub about a model that lies in a folder.
_QUIET: Final[Mapping[str, str]] = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONUNBUFFERED": "1",
}


class Server:
    """A running command; `url` is where it listens. `stop` may be called any number of times."""

    def __init__(
        self, name: str, command: Sequence[str], model: str, log: Path, folders: Mapping[str, str] = {}
    ) -> None:
        """Start the command on a model; `folders` are what else it names, by placeholder."""
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.log = log
        self._name = name
        self._command = filled(command, {"model": model, "host": HOST, "port": str(self.port), **folders})
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SUPERVISOR), str(GRACE_S), *self._command],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment([model, *folders.values()]),
            )
        atexit.register(self.stop)

    @property
    def ended(self) -> bool:
        """Whether the server has ended by itself."""
        return self._process.poll() is not None

    def await_ready(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `ready`; AnsweringError when the server ends before, or the time is up."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.ended:
                raise AnsweringError(self.told("the server ended before it answered"))
            if time.monotonic() > deadline:
                self.stop()
                raise AnsweringError(
                    self.told(f"the server did not answer within {timeout_s:g} s")
                    + "\n  a large model needs longer: raise start_timeout_s"
                )
            time.sleep(_POLL_S)

    def told(self, what: str) -> str:
        """Return a message about this server: what happened, its command, the end of its log."""
        lines = tail(self.log)
        shown = [f"    {line}" for line in lines] or ["    (nothing)"]
        return "\n".join(
            [
                f"runtime {self._name!r}: {what}",
                f"  command: {' '.join(self._command)}",
                f"  its log ends with (all of it: {self.log}):",
                *shown,
            ]
        )

    def stop(self) -> None:
        """End the server and everything it started; returns when it is gone."""
        atexit.unregister(self.stop)
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(GRACE_S + 5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                if hasattr(os, "killpg"):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def tail(log: Path) -> list[str]:
    """Return the last lines of a log, without what would steer a terminal."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = [
        _CONTROL.sub("", line.rpartition("\r")[2]).rstrip() for line in text.replace("\r\n", "\n").split("\n")
    ]
    return [line[:_LINE_CHARS] for line in lines if line][-TAIL_LINES:]


def command_identity(word: str) -> dict[str, str]:
    """Return the version of a command by its first word.

    A console script of this environment is named by its distribution, any other file by its SHA-256; a word
    that leads to no file says nothing.
    """
    found = shutil.which(word)
    if found is None:
        return {}
    path = Path(found)
    if path.parent.resolve() == Path(sys.executable).parent.resolve():
        for script in metadata.entry_points(group="console_scripts", name=path.stem):
            if script.dist is not None:
                return {"version": f"{script.dist.name} {script.dist.version}"}
    return {"executable_sha256": sha256_of(path)}


def _environment(models: Sequence[str]) -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1"} if any(Path(model).is_dir() for model in models) else {}
    return {**os.environ, **_QUIET, **offline}
