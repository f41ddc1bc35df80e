"""The trackers of a session hear of each step and each verdict; trouble there stops nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.publish.trackers import Tracker, TrackingError, trackers

if TYPE_CHECKING:
    from pytest_finetune.suite.context import Context
    from pytest_finetune.training.request import Progress


def opened(words: Sequence[str], folder: Path) -> list[Tracker]:
    """Return the trackers that were named; pytest.UsageError for a name that is none."""
    try:
        return trackers(words, folder)
    except TrackingError as error:
        raise pytest.UsageError(str(error)) from None


def check(found: Sequence[Tracker]) -> None:
    """Raise pytest.UsageError where one of them cannot follow this run: a night must not go by untold."""
    for tracker in found:
        try:
            tracker.check()
        except TrackingError as error:
            raise pytest.UsageError(f"--finetune-track={tracker.name}: {error}") from None


@contextmanager
def followed(context: Context, key: str) -> Iterator[Callable[[Progress], None]]:
    """Let every tracker hear the steps of a training, besides the terminal; one that fails is not told again."""
    runs: dict[Tracker, str] = {}
    for tracker in context.trackers:
        with _unless_it_fails(context, runs, tracker):
            runs[tracker] = tracker.begin(context.experiment.name, key)
            context.record(("tracked", key, tracker.name), runs[tracker])

    def tell(progress: Progress) -> None:
        context.line.show(progress)
        for tracker, run in list(runs.items()):
            with _unless_it_fails(context, runs, tracker):
                tracker.step(run, progress)

    yield tell
    for tracker, run in list(runs.items()):
        with _unless_it_fails(context, runs, tracker):
            tracker.trained(run)


@contextmanager
def _unless_it_fails(context: Context, runs: dict[Tracker, str], tracker: Tracker) -> Iterator[None]:
    try:
        yield
    except TrackingError as error:
        runs.pop(tracker, None)
        context.line.warn(f"{tracker.name} does not follow this training any more: {error}")


def told(
    found: Sequence[Tracker], record: Mapping[str, Any], runs: Callable[[str], Mapping[str, str]]
) -> Iterator[str]:
    """Tell every tracker how each experiment ended, discarded ones too, and yield a line for each."""
    for tracker in found:
        for experiment in record["experiments"]:
            name = experiment["name"]
            try:
                place = tracker.judged(runs(name).get(tracker.name), record, experiment)
            except TrackingError as error:
                yield f"{tracker.name} does not know how {name} ended: {error}"
            else:
                yield f"{tracker.name}: {name} at {place}"
