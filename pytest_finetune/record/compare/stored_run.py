"""One finished run as it can be read back: from the store, from a record's folder, from a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_finetune.answering.answers import Answer, AnswersError, read_answers
from pytest_finetune.errors import FinetuneError
from pytest_finetune.record.model import RecordedExperiment, RecordedRun
from pytest_finetune.record.validate import problems
from pytest_finetune.store.manifest import MANIFEST

RECORD = "record.json"


class NoRun(FinetuneError):
    """There is no run to read; the message is for the user."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run: `named` says how to name it again, `session` is what its record says of the session.

    `answers` gives an arm's raw answers, or None when they are not there any more.
    """

    named: str
    session: RecordedRun = field(repr=False)
    experiment: RecordedExperiment = field(repr=False)
    answers: Callable[[str], Sequence[Answer] | None] = field(repr=False)


def run_in_folder(path: Path, name: str | None = None) -> StoredRun:
    """Read the run of a record: of its file, its folder, or a bundle; `name` chooses among several experiments."""
    folder = path if path.is_dir() else path.parent
    file = folder / RECORD if path.is_dir() else path
    session = _session(file)
    name = name or _of_bundle(folder)
    found = {one.name: one for one in session.experiments}
    if name is not None and name not in found:
        raise NoRun(f"{file} holds no experiment {name!r}; it holds {', '.join(found) or 'none'}")
    if name is None and len(found) != 1:
        held = ", ".join(found) or "none"
        raise NoRun(f"{file} holds {len(found)} experiments ({held}): name one, as in {path}::NAME")
    experiment = found[name] if name is not None else next(iter(found.values()))
    named = f"{path}::{experiment.name}" if len(found) > 1 else str(path)
    return StoredRun(named, session, experiment, lambda arm: _outputs(folder, experiment, arm))


def _session(file: Path) -> RecordedRun:
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise NoRun(f"{file.parent} holds no {file.name}, so it is neither a record nor a bundle") from None
    except (OSError, ValueError, RecursionError) as error:
        raise NoRun(f"{file} cannot be read: {error}") from None
    wrong = problems(found)
    if wrong:
        raise NoRun(f"{file} is no record: {wrong[0]}")
    return RecordedRun.of(found)


def _of_bundle(folder: Path) -> str | None:
    """Return which experiment a bundle is about; None where there is no bundle."""
    try:
        return str(json.loads((folder / MANIFEST).read_bytes())["experiment"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _outputs(folder: Path, experiment: RecordedExperiment, arm: str) -> Sequence[Answer] | None:
    name = experiment.arms[arm].outputs
    file = (folder / name).resolve()
    if not name or not file.is_relative_to(folder.resolve()):
        return None
    try:
        return read_answers(file)
    except (OSError, UnicodeDecodeError, AnswersError):
        return None
