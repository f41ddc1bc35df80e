"""Records of runs that were not whole: they never take the place of the record of a whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_finetune.record.model import Recorded, RecordedRun
from pytest_finetune.record.write import earlier

PARTIAL: Final = "partial"
NARROWED: Final = "narrowed run"
"""How the note of a run begins that left tests out."""


def why_partial(record: Recorded) -> str:
    """Say what kept a run from being whole; empty where nothing did."""
    run = RecordedRun.of(record)
    if run.broken_off:
        return "it was broken off"
    if any(note.startswith(NARROWED) for note in run.notes):
        return "it was narrowed"
    for experiment in run.experiments:
        if experiment.gate or experiment.stopped:
            return f"{experiment.name or 'an experiment'} could not be judged"
    return ""


def folder_for(directory: Path, partial: str) -> Path:
    """Return where a record belongs: in its folder, or, where a run is partial, beside the record of a whole one."""
    if not partial:
        return directory
    standing = earlier(directory / "record.json")
    return directory / PARTIAL if standing.get("experiments") and not why_partial(standing) else directory
