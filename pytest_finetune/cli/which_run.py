"""From a word to one finished run: the beginning of its id or of its adapter's key, or a path to its record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.answers import ANSWERS_FILE, AnswersError, read_answers
from pytest_finetune.cli.answer import CommandError
from pytest_finetune.cli.runs import ID_SHOWN, run_of
from pytest_finetune.record.compare.stored_run import NoRun, StoredRun, run_in_folder
from pytest_finetune.record.model import RecordedExperiment, RecordedRun
from pytest_finetune.record.summary import RUN

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.store import Entry, Store

_LISTED: Final = 10


def find(word: str, store: Store | None) -> StoredRun:
    """Return the run that a word names; CommandError when there is none, or more than one."""
    path, _, name = word.partition("::")
    if path and Path(path).exists():
        return run_in_folder(Path(path), name or None)
    if "/" in path or path.endswith(".json"):
        raise CommandError(f"{word!r}: there is no such file or folder")
    if store is None:
        raise CommandError(f"{word!r}: no run was stored here yet; name a record's folder, or --store")
    return _read(store, _chosen(word, store.entries("records")))


def _chosen(word: str, entries: Sequence[Entry]) -> Entry:
    runs = [entry for entry in entries if entry.key.startswith(word)]
    found = runs or [entry for entry in entries if run_of(entry).key.startswith(word)]
    if not word or not found:
        raise CommandError(
            f"{word!r}: none of the {len(entries)} runs in the store has an id or an adapter key that begins so; "
            "`pytest-finetune history` lists them"
        )
    if len(found) > 1:
        listed = "\n".join(f"  {_told(entry)}" for entry in found[:_LISTED])
        more = f"\n  and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise CommandError(f"{word!r} names {len(found)} runs; write more of the id of one:\n{listed}{more}")
    return found[0]


def _told(entry: Entry) -> str:
    run = run_of(entry)
    words = (run.run[:ID_SHOWN], run.created, run.experiment, run.verdict or "no decision")
    return "  ".join([*(word or "-" for word in words), f"adapter {(run.key or '-')[:ID_SHOWN]}"])


def _read(store: Store, listed: Entry) -> StoredRun:
    named = listed.key[:ID_SHOWN]
    entry = store.read("records", listed.key)
    if entry is None:
        raise NoRun(f"run {named} was damaged: {store.warnings[-1]}")
    stored = json.loads((entry.path / RUN).read_bytes())
    experiment = RecordedExperiment.of(stored["experiment"])
    return StoredRun(named, RecordedRun.of(stored), experiment, partial(_answers, store, experiment))


def _answers(store: Store, experiment: RecordedExperiment, arm: str) -> Sequence[Answer] | None:
    key = experiment.arms[arm].outputs_key
    entry = store.read("outputs", key) if key else None
    try:
        return None if entry is None else read_answers(entry.path / ANSWERS_FILE)
    except (OSError, AnswersError):
        return None
