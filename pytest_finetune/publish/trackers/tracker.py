"""What a tracker does: it opens a run for each training, hears of its steps, and of the verdict at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pytest_finetune.errors import FinetuneError
from pytest_finetune.publish import facts
from pytest_finetune.record.lenient import Json
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.training.request import Progress


class TrackingError(FinetuneError):
    """The run cannot be followed there; the message is for the user."""


class Tracker(Protocol):
    """One place where runs are followed. Every method but `name` raises TrackingError."""

    name: str

    def check(self) -> None:
        """Find, before anything runs, that the package is there and somebody answers."""

    def begin(self, experiment: str, key: str) -> str:
        """Open the run of a training, and return the id by which another process finds it."""

    def step(self, run: str, progress: Progress) -> None:
        """Tell a step of a run that this process began."""

    def trained(self, run: str) -> None:
        """Hear that the training of a run that this process began has ended."""

    def judged(self, run: str | None, record: Json, experiment: Json) -> str:
        """Tell how an experiment ended, and return where that stands; without a run nothing was trained."""


def live(progress: Progress) -> Iterator[facts.Metric]:
    """Yield the numbers of one step, under the names that the record's own have."""
    for name, value in (("loss", progress.loss), ("tokens_per_s", progress.tokens_per_s)):
        if value is not None:
            yield facts.Metric(f"training/{name}", value, progress.step)


def final(experiment: Json, *, told_live: bool) -> list[facts.Metric]:
    """Return the numbers of the record; of a training that was followed the loss is known already."""
    return [one for one in facts.metrics(experiment) if not (told_live and one.name == "training/loss")]


def verdict_of(experiment: Json) -> str:
    """Return the verdict in a word; a run that was not judged has none."""
    decision = RecordedExperiment.of(experiment).decision
    word = decision.verdict or "not judged"
    return f"{word} (undecided)" if decision.undecided else word


def title_of(experiment: str, key: str) -> str:
    """Return what a run is called."""
    return f"{experiment} {key[:12]}".strip()
