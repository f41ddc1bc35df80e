"""Garbage collection: old and unused entries, never what is promoted, pinned, locked or in use."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_finetune.store import disk, leftovers
from pytest_finetune.store.checkpoints import CHECKPOINTS
from pytest_finetune.store.context import SET_ASIDE
from pytest_finetune.store.folders import KINDS, Store
from pytest_finetune.store.lock import exclusive
from pytest_finetune.store.manifest import MANIFEST
from pytest_finetune.store.old_jobs import logs_of_no_job, old_jobs
from pytest_finetune.store.shared import pending
from pytest_finetune.wording import size

_LEFTOVER_S: Final = 24 * 3600.0
_MADE_AGAIN: Final = ("models", "gguf")
_SET_ASIDE_S: Final = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Removal:
    """One thing that was (or, in a dry run, would be) removed; `place` is relative to the store."""

    place: str
    size_bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did; `kept` says for each spared candidate why."""

    removed: tuple[Removal, ...]
    kept: tuple[tuple[str, str], ...]
    left_bytes: int

    @property
    def freed_bytes(self) -> int:
        """Bytes of everything removed."""
        return sum(removal.size_bytes for removal in self.removed)


@dataclass(frozen=True, slots=True)
class _Damaged:
    """A damaged thing that was set aside, with the file that says why."""

    paths: tuple[Path, ...]
    since_s: float

    @property
    def size_bytes(self) -> int:
        return sum(map(_size, self.paths))


@dataclass(frozen=True, slots=True)
class _Candidate:
    kind: str
    key: str
    path: Path
    size_bytes: int
    used_s: float

    @property
    def place(self) -> str:
        return f"{self.kind}/{self.key}"


def collect(
    store: Store,
    *,
    max_age_s: float | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
    now_s: float | None = None,
) -> Collected:
    """Remove entries not used for `max_age_s`, then merged models, GGUF files and the least recently used until
    `max_bytes` remain.

    Leftovers of killed writers (a day old) and what was set aside (a month old, or `max_age_s`) go in any case; the
    rest of what was set aside counts and goes before any entry. Jobs that are over go with the entries. Pinned,
    promoted and locked entries and those that a process has read and may still use stay.
    Raises StoreError when the store cannot be changed.
    """
    now = time.time() if now_s is None else now_s
    removed = [_leftover(store, path, why, dry_run) for path, why in _leftovers(store, now, max_age_s)]
    # Models go first: each is made again from its adapter and its base, without training.
    candidates = sorted(_candidates(store), key=lambda found: (found.kind not in _MADE_AGAIN, found.used_s))
    damaged = _set_aside(store)
    total = sum(one.size_bytes for one in damaged) + sum(one.size_bytes for one in candidates)
    excess = None if max_bytes is None else total - max_bytes
    kept, gone = _collect_damaged(store, damaged, now, max_age_s, excess, dry_run)
    removed += gone
    total -= sum(removal.size_bytes for removal in gone)
    for candidate in candidates:
        why = _reason(candidate, now, max_age_s, None if max_bytes is None else total - max_bytes)
        if why is None:
            continue
        spared = _spared(store, candidate) or _remove(store, candidate, dry_run)
        if spared:
            kept.append((candidate.place, spared))
        else:
            removed.append(Removal(candidate.place, candidate.size_bytes, why))
            total -= candidate.size_bytes
    if max_age_s is not None:
        kept += _collect_jobs(store, now, max_age_s, removed, dry_run)
    return Collected(tuple(removed), tuple(kept), total)


def _set_aside(store: Store) -> list[_Damaged]:
    """Return the damaged things that are kept for inspection, the oldest first."""
    folder = store.root / SET_ASIDE
    if folder.is_symlink() or not folder.is_dir():
        return []
    names: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        names.setdefault(path.name.removesuffix(".txt"), []).append(path)
    found = [
        _Damaged(tuple(sorted(paths)), max(one.lstat().st_mtime for one in paths)) for paths in names.values()
    ]
    return sorted(found, key=lambda one: one.since_s)


def _collect_damaged(
    store: Store,
    found: list[_Damaged],
    now: float,
    max_age_s: float | None,
    excess_bytes: int | None,
    dry_run: bool,
) -> tuple[list[tuple[str, str]], list[Removal]]:
    """Remove what was set aside long ago, or is too much; return what stays, with its size, and what went."""
    limit_s = _SET_ASIDE_S if max_age_s is None else min(_SET_ASIDE_S, max_age_s)
    kept: list[tuple[str, str]] = []
    removed: list[Removal] = []
    for one in found:
        place, size_bytes = one.paths[0].relative_to(store.root).as_posix(), one.size_bytes
        why = f"damaged and set aside {(now - one.since_s) / 86400:.1f} days ago"
        freed = sum(removal.size_bytes for removal in removed)
        if now - one.since_s > limit_s or (excess_bytes is not None and excess_bytes > freed):
            removed.append(Removal(place, size_bytes, why))
            for path in one.paths if not dry_run else ():
                with disk.explained(f"remove {place}", path):
                    disk.remove_tree(path)
        else:
            kept.append((place, f"{why}, {size(size_bytes)}"))
    return kept, removed


def _collect_jobs(
    store: Store, now: float, max_age_s: float, removed: list[Removal], dry_run: bool
) -> list[tuple[str, str]]:
    """Remove jobs and their logs, adding to what is removed; return those that stay, each with its reason."""
    kept = []
    for job in old_jobs(store, now, max_age_s, {removal.place for removal in removed}):
        if job.stays:
            kept.append((job.folder.relative_to(store.root).as_posix(), job.stays))
        else:
            removed.append(_leftover(store, job.folder, job.goes, dry_run))
    logs = [*logs_of_no_job(store, now, max_age_s, {removal.place for removal in removed})]
    removed += [_leftover(store, log, "the log of a job that is gone", dry_run) for log in logs]
    return kept


def _reason(
    candidate: _Candidate, now: float, max_age_s: float | None, excess_bytes: int | None
) -> str | None:
    idle_s = now - candidate.used_s
    if max_age_s is not None and idle_s > max_age_s:
        return f"not used for {idle_s / 86400:.1f} days"
    if excess_bytes is not None and excess_bytes > 0:
        return "least recently used"
    return None


def _spared(store: Store, candidate: _Candidate) -> str | None:
    pinned = store.notes.pinned(candidate.kind, candidate.key)
    if pinned is not None:
        return pinned
    if pending.mark(store.root, candidate.kind, candidate.key).exists():
        return "not uploaded yet"
    lock = store.lock_file(candidate.kind, candidate.key)
    return "locked" if _busy(lock) else None


def _busy(file: Path) -> bool:
    if not file.exists():
        return False
    handle = exclusive(file)
    if handle is None:
        return file.exists()
    os.close(handle)
    return False


def _remove(store: Store, candidate: _Candidate, dry_run: bool) -> str | None:
    """Remove an entry, or say why it stays. It goes by a rename: a reader sees all of it or nothing."""
    manifest = candidate.path / MANIFEST
    handle = exclusive(manifest) if manifest.exists() else None
    if handle is None and manifest.exists():
        return "in use"
    try:
        if not dry_run:
            with disk.explained(f"remove {candidate.place}", candidate.path):
                part = store.root / disk.temporary_name()
                candidate.path.rename(part)
                disk.remove_tree(part)
    finally:
        if handle is not None:
            os.close(handle)
    return None


def _candidates(store: Store) -> Iterator[_Candidate]:
    for kind in KINDS:
        if kind == "records":  # small, and the discarded runs are what the next one must know
            continue
        parent = store.root / kind
        if parent.is_symlink() or not parent.is_dir():
            continue
        for path in parent.iterdir():
            if path.is_dir() and not path.is_symlink():  # a foreign file is not ours to remove
                yield _Candidate(kind, path.name, path, _size(path), path.stat().st_mtime)


def _leftovers(store: Store, now: float, max_age_s: float | None) -> Iterator[tuple[Path, str]]:
    for path in leftovers.find(store.root):
        if now - _newest(path) > _LEFTOVER_S:
            yield path, "left behind by a writer that was killed"
    if max_age_s is not None:
        for path in (store.root / CHECKPOINTS).glob("*"):
            lock = store.lock_file("adapters", path.name.partition(".")[0])
            if now - _newest(path) > max_age_s and not _busy(lock):
                yield path, "checkpoints of a training that was never finished"


def _leftover(store: Store, path: Path, why: str, dry_run: bool) -> Removal:
    removal = Removal(path.relative_to(store.root).as_posix(), _size(path), why)
    if not dry_run:
        with disk.explained(f"remove {removal.place}", path):
            disk.remove_tree(path)
    return removal


def _files(path: Path) -> Iterator[os.stat_result]:
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield (Path(folder) / name).lstat()


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(status.st_size for status in _files(path))


def _newest(path: Path) -> float:
    return max([path.lstat().st_mtime, *(status.st_mtime for status in _files(path))])
