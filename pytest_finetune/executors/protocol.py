"""The seam between a step and the engine that runs it somewhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pytest_finetune.errors import FinetuneError
from pytest_finetune.yamlfile import Json

State = Literal["waiting", "running", "ended", "unknown"]


class ExecutorError(FinetuneError):
    """An executor cannot do what was asked; the message says what, why and what to do."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a job asks its engine for: `card` as the experiment lists it, `gpus` of it, GiB of main memory, minutes.

    `engine` is what the experiment passes through to its engine under ``executor.submitit``.
    """

    card: str | None = None
    gpus: int = 0
    memory: int = 16
    minutes: int = 60
    engine: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Submission:
    """One step for an executor: its key, the store where its request lies, what it needs, and the project's folder.

    `what` names it for people, `log` is the file for what its engine prints on this machine.
    """

    key: str
    store: str
    what: str
    resources: Resources
    project: Path
    log: Path

    @property
    def words(self) -> tuple[str, ...]:
        """The command that runs the step: no word of it needs a shell."""
        return ("pytest-finetune", "step", self.key, "--store", self.store)


@dataclass(frozen=True, slots=True)
class Seen:
    """What an executor sees of a job: whether it goes on, its exit code if it has ended and told one, and `why`.

    `why` says why it ended, or waits; `do`, where the engine knows it, what is to be done about an end. `unknown` is
    right for a job that this machine cannot ask about; what the step itself tells then decides alone.
    """

    state: State
    code: int | None = None
    why: str = ""
    do: str = ""

    @property
    def goes_on(self) -> bool:
        """Tell whether the engine says that the job waits or runs."""
        return self.state in {"waiting", "running"}


class Executor(Protocol):
    """Hands steps to an engine that runs them somewhere else; a ticket is JSON by which it knows a job again."""

    @property
    def name(self) -> str:
        """The name, as messages show it."""

    def script(self, step: Submission) -> str:
        """Return what `submit` would run, for a person to read; runs nothing."""

    def submit(self, step: Submission) -> Mapping[str, Any]:
        """Start a job, and return its ticket at once. ExecutorError when it cannot be started."""

    def look(self, step: Submission, ticket: Json) -> Seen:
        """Tell how a job stands. Tickets come out of the store: nothing in one is executed."""

    def output(self, step: Submission, ticket: Json) -> str:
        """Return what the engine has printed for a job, as far as it is known here."""

    def cancel(self, step: Submission, ticket: Json) -> None:
        """Stop a job; nothing happens when it has ended."""
