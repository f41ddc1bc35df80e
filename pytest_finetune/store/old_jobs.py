"""Which jobs garbage collection may take: those that are over, and those of which nothing was heard for long."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from pytest_finetune.store.disk import StoreError
from pytest_finetune.store.folders import LOGS, Store
from pytest_finetune.store.jobs import DONE, INTERRUPTED, JOBS, RUNNING, TOLD, is_key

_BEATS_S: Final = 24 * 3600.0
"""A step that runs tells so every few seconds; its network may be away for a day."""
_QUEUE_S: Final = 30 * 24 * 3600.0
"""So long a job may wait in a queue, for the first time or again, without a word."""


class OldJob(NamedTuple):
    """A job's folder that nobody has written to for long: why it goes, or else why it stays."""

    folder: Path
    goes: str
    stays: str


def old_jobs(store: Store, now: float, max_age_s: float, removed: Collection[str]) -> Iterator[OldJob]:
    """Yield the jobs that were not written to for `max_age_s`; `removed` names the entries that are gone by now.

    A job that was done stays as long as what it has made: where that has the key of a card of its own, it is found
    by its job alone.
    """
    for folder in sorted((store.root / JOBS).glob("*")):
        if folder.is_symlink() or not is_key(folder.name):
            continue  # a foreign thing is not ours to remove
        idle_s = now - max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))
        told = _told(store, folder.name)
        state, made = told.get("state"), f"{told.get('kind')}/{told.get('made')}"
        there = state == DONE and made not in removed and (store.root / made).is_dir()
        if idle_s > max_age_s and not there:
            yield _judged(folder, state, idle_s)


def logs_of_no_job(store: Store, now: float, max_age_s: float, removed: Collection[str]) -> Iterator[Path]:
    """Yield the old logs of commands whose jobs are not in this folder; `removed` names those that are gone by now."""
    jobs = [job.name for job in (store.root / JOBS).glob("*") if f"{JOBS}/{job.name}" not in removed]
    for log in sorted((store.root / LOGS).glob("job-*.log")):
        key = log.stem.removeprefix("job-")
        if now - log.lstat().st_mtime > max_age_s and not any(job.startswith(key) for job in jobs):
            yield log


def _told(store: Store, key: str) -> Mapping[str, Any]:
    """Return what the last attempt told; nothing when that is nothing, or is damaged."""
    number = store.jobs.attempt(key)
    try:
        return (store.jobs.read(key, number, TOLD) if number else None) or {}
    except StoreError:
        return {}


def _judged(folder: Path, state: object, idle_s: float) -> OldJob:
    days = f"{idle_s / 86400:.1f} days"
    if state == RUNNING:
        stays = "" if idle_s > _BEATS_S else "running"
        return OldJob(folder, f"a job that vanished {days} ago", stays)
    if state in (None, INTERRUPTED):
        stays = "" if idle_s > _QUEUE_S else "a job that may wait in a queue"
        return OldJob(folder, f"a job that was not heard of for {days}", stays)
    return OldJob(folder, f"a job that ended {days} ago", "")
