"""Any engine with a command line: a template whose command runs, or starts, the job. No shell reads it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pytest_finetune.executors.protocol import ExecutorError, Seen, Submission
from pytest_finetune.store.disk import host_name
from pytest_finetune.yamlfile import Json

PLACEHOLDERS: Final = ("step", "key", "store", "card", "gpus", "memory", "minutes")
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_]\w*)\}")
_ALONE: Final = re.compile(r"(?<!\S)\{step\}(?!\S)")
_WHOLE: Final = "\0step"
_TAIL_BYTES: Final = 64 * 1024


def checked(template: str) -> str:
    """Return a template; ExecutorError when it has no step, an unknown placeholder, or an open quote."""
    named = _PLACEHOLDER.findall(template)
    unknown = next((name for name in named if name not in PLACEHOLDERS), None)
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ExecutorError(f"{template!r}: {{{unknown}}} is no placeholder; there are {known}")
    if "step" not in named and not {"key", "store"} <= set(named):
        raise ExecutorError(
            f"{template!r} runs no step: write {{step}}, or {{key}} and {{store}}, as in sky launch -y -- {{step}}"
        )
    try:
        shlex.split(template)
    except ValueError as error:
        raise ExecutorError(f"{template!r} cannot be split into words: {error}: close the quote") from None
    return template


def filled(template: str, step: Submission) -> list[str]:
    r"""Return the words of a template with its placeholders filled in.

    A ``{step}`` that stands alone becomes the words of the step. Inside a longer word, which another shell will split
    (``bash -c 'cd project && {step}'``), it becomes one text that is quoted for that shell; so does every other value.

    >>> from pytest_finetune.executors.protocol import Resources
    >>> one = Submission("ab", "/my store", "a training", Resources(gpus=2), Path(), Path())
    >>> filled("run -g {gpus} -- {step}", one)
    ['run', '-g', '2', '--', 'pytest-finetune', 'step', 'ab', '--store', '/my store']
    >>> filled("bash -c 'cd x && {step}'", one)
    ['bash', '-c', "cd x && pytest-finetune step ab --store '/my store'"]
    """
    need = step.resources
    values = {
        "step": shlex.join(step.words),
        "key": step.key,
        "store": step.store,
        "card": need.card or "",
        "gpus": str(need.gpus),
        "memory": str(need.memory),
        "minutes": str(need.minutes),
    }
    words: list[str] = []
    for word in shlex.split(_ALONE.sub(_WHOLE, template)):
        if word == _WHOLE:
            words += step.words
        else:
            words.append(_in_word(word.replace(_WHOLE, "{step}"), values))
    return words


def _in_word(word: str, values: Mapping[str, str]) -> str:
    """Fill one word in; what another shell will split, which is what has blanks of its own, gets quoted values."""
    again = any(character.isspace() for character in word)

    def value(found: re.Match[str]) -> str:
        said = values[found[1]]
        return shlex.quote(said) if again and found[1] != "step" else said

    return _PLACEHOLDER.sub(value, word)


class _Outliving(subprocess.Popen[bytes]):
    """A command that goes on when pytest ends; Python would warn of it as of one that was forgotten."""

    def __del__(self) -> None:
        """Leave it alone."""


class CommandExecutor:
    """Runs a template's command in a session of its own: it outlives pytest, and Ctrl-C does not reach it."""

    def __init__(self, template: str) -> None:
        self._template = checked(template)
        self._started: dict[str, _Outliving] = {}

    @property
    def name(self) -> str:
        """The word by which it is chosen."""
        return "command"

    def script(self, step: Submission) -> str:
        """Return the command as a shell would have to be given it."""
        return shlex.join(filled(self._template, step))

    def submit(self, step: Submission) -> Mapping[str, Any]:
        """Start the command; what it prints goes to the step's log."""
        words = filled(self._template, step)
        try:
            with step.log.open("wb") as out:
                process = _Outliving(
                    words,
                    cwd=step.project,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise ExecutorError(
                f"finetune_executor: {words[0]!r} cannot be started: {error.strerror}: install it, or mend the template"
            ) from None
        self._started[step.key] = process
        return {"pid": process.pid, "host": host_name()}

    def look(self, step: Submission, ticket: Json) -> Seen:
        """Ask the process that was started here; one of another pytest on this machine by its command line."""
        process = self._started.get(step.key)
        if process is not None and process.pid == ticket.get("pid"):
            code = process.poll()
            return Seen("running") if code is None else Seen("ended", code)
        if ticket.get("host") != host_name():
            return Seen("unknown")
        return Seen("running") if self._is_ours(step, ticket) else Seen("ended")

    def output(self, step: Submission, ticket: Json) -> str:
        """Return the end of what the command has printed, where it was started."""
        try:
            with step.log.open("rb") as stream:
                stream.seek(max(0, step.log.stat().st_size - _TAIL_BYTES))
                return stream.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def cancel(self, step: Submission, ticket: Json) -> None:
        """Ask the command and all that it has started to end."""
        if ticket.get("host") == host_name() and (step.key in self._started or self._is_ours(step, ticket)):
            with suppress(OSError):
                os.killpg(int(ticket["pid"]), signal.SIGTERM)

    @staticmethod
    def _is_ours(step: Submission, ticket: Json) -> bool:
        """Tell whether a process is the command of this step: a number in a store proves nothing by itself."""
        pid = ticket.get("pid")
        if not isinstance(pid, int):
            return False
        with suppress(OSError):
            return step.key.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False
