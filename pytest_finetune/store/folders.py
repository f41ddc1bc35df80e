"""The store: folders named by their key, written once and checked on every read."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_finetune.fingerprint import Key
from pytest_finetune.store import disk
from pytest_finetune.store.checkpoints import Checkpoints
from pytest_finetune.store.context import Quarantine, StoreContext
from pytest_finetune.store.digests import DigestFile
from pytest_finetune.store.disk import StoreError, explained
from pytest_finetune.store.jobs import JobBook
from pytest_finetune.store.leftovers import sweep
from pytest_finetune.store.listing import Listing
from pytest_finetune.store.lock import Lock, exclusive, file_lock, free_lock, shared
from pytest_finetune.store.looks import LookBook
from pytest_finetune.store.manifest import MANIFEST, DefectError, Entry, seal, verify
from pytest_finetune.store.notes import Notes
from pytest_finetune.store.shared.pending import PendingUploads
from pytest_finetune.store.shared.upstream import SHARED_KINDS, Upstream, UpstreamError
from pytest_finetune.store.verdicts import VerdictBook

KINDS: Final = ("adapters", "outputs", "plans", "bases", "models", "gguf", "records")
LOGS: Final = "logs"
LOCK_TIMEOUT_S: Final = 12 * 3600.0

_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_TAKEN: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR})
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.01


class Store:
    """Content-addressed folders ``<root>/<kind>/<key>/``, verified on every read and written once.

    They hold adapters, raw outputs, memory plans, bases, and models made from an adapter and its base.
    Making a Store writes nothing. `warnings` collects, for the user, what was set aside or passed over;
    `looks` counts the looks at held-out rows, `verdicts` holds what judges said, `notes` the last runs and pins,
    `jobs` the steps that run elsewhere. With an `upstream`, what is not here comes from there, and what is made
    here goes there unless it is only read.
    """

    def __init__(self, root: Path, upstream: Upstream | None = None) -> None:
        self._context = StoreContext(root.absolute(), upstream)
        self.root = self._context.root
        self.upstream = upstream
        self.warnings = self._context.warnings
        self.looks = LookBook(self._context)
        self.verdicts = VerdictBook(self._context)
        self.notes, self.jobs = Notes(self._context), JobBook(self._context)
        self._digests = DigestFile(self._context)
        self._quarantine = Quarantine(self._context)
        self._pending = PendingUploads(self._context)
        self._checkpoints = Checkpoints(self._context, self._quarantine)
        self._listing = Listing(self._context)
        self._in_use: dict[tuple[str, str], int] = {}
        weakref.finalize(self, _close_all, self._in_use)

    def read(self, kind: str, key: Key | str) -> Entry | None:
        """Return the entry when it is there and every byte is as committed, else None.

        A damaged entry is moved to ``set-aside/`` with a line in `warnings`, and counts as a miss. The
        entry is marked as in use until `close` or the end of the process. What is not here is asked for
        upstream; what cannot be reached there, or is damaged there, is a miss as well, with a warning.
        """
        name = _checked(kind, key)
        entry = self._read_here(kind, name)
        if entry is None:
            return self._bring(kind, name, replacing=False)
        return self._send(entry, replacing=False) if self._pending.take(kind, name) else entry

    def _read_here(self, kind: str, name: str) -> Entry | None:
        parent = self.root / kind
        if parent.is_symlink():
            self._quarantine.set_aside(
                parent, "a link in place of a folder of the store", parent.lstat().st_ino
            )
        for attempt in range(_ATTEMPTS):
            try:
                inode = (parent / name).lstat().st_ino
            except OSError:
                return None
            try:
                entry = self._verified(kind, name)
                self._clear_after_a_killed_writer(kind, name)
                return entry
            except FileNotFoundError:
                pass  # another process moved it while we read; look what stands there now
            except DefectError as defect:
                if self._quarantine.set_aside(parent / name, str(defect), inode):
                    return None
            except OSError as error:
                explanation = disk.explanation(f"read {kind}/{name[:12]}", parent / name, error)
                self._context.warn(f"{explanation}; it counts as a miss")
                return None
            time.sleep(_PAUSE_S * attempt)
        return None

    def commit(
        self,
        kind: str,
        key: Key | str,
        write: Callable[[Path], None],
        about: Mapping[str, object] | None = None,
        *,
        replacing: bool = False,
    ) -> Entry:
        """Let `write` fill an empty folder and make it the entry, whole or not at all.

        The first writer wins: when a sound entry is there by then, it is returned and this one's files
        are dropped; with `replacing`, this one takes its place in one step. `about` is read after `write` has
        returned, so `write` may fill it. What `write` raises is raised on. Raises StoreError when the files must
        not be stored (a pickle, a number that is not finite) or cannot be (disk full, read-only).
        """
        name = _checked(kind, key)
        action = f"store {kind}/{name[:12]}"
        with self._part(action) as part:
            try:
                with explained(action, self.root, only=disk.FULL):
                    write(part)
                with explained(action, self.root):
                    seal(part, kind, name, about or {}, key.fields if isinstance(key, Key) else {})
                    self._publish(part, kind, name, replacing)
            except DefectError as defect:
                raise StoreError(f"store: {kind}/{name[:12]} was not stored: {defect}") from None
        entry = self._read_here(kind, name)
        if entry is None:
            raise StoreError(
                f"store: cannot {action}: the entry could not be read back after it was written; see the warnings"
            )
        if kind == "adapters":
            self._checkpoints.drop(name)
        return self._send(entry, replacing=replacing)

    @contextlib.contextmanager
    def _part(self, action: str) -> Iterator[Path]:
        """Make an empty folder for an entry to be; what is not renamed into place by the end is removed."""
        with explained(action, self.root):
            self._context.prepare()
            sweep(self.root)
            part = self.root / disk.temporary_name()
            part.mkdir()
        guard = exclusive(part)  # tells other containers that this folder has a living writer
        try:
            yield part
        finally:
            with contextlib.suppress(OSError):
                disk.remove_tree(part)
            if guard is not None:
                os.close(guard)

    def _bring(self, kind: str, name: str, *, replacing: bool) -> Entry | None:
        """Fetch an entry from upstream, verify it, and keep it here."""
        upstream = self._context.upstream
        if upstream is None or kind not in SHARED_KINDS:
            return None
        label = f"{kind}/{name[:12]}"
        try:
            with self._part(f"keep {label}") as part:
                if not upstream.fetch(kind, name, part):
                    return None
                verify(part, kind, name)
                with explained(f"keep {label}", self.root):
                    self._publish(part, kind, name, replacing)
        except DefectError as defect:
            self._context.warn(f"store: {label} at {upstream.name} counts as a miss: {defect}")
        except UpstreamError as error:
            self._context.warn(f"store: {label} counts as a miss: {error}")
        except StoreError as error:
            self._context.warn(f"{error}; it counts as a miss")
        else:
            return self._read_here(kind, name)
        return None

    def _send(self, entry: Entry, *, replacing: bool) -> Entry:
        """Share an entry; return the one that was shared first, if that is another one."""
        upstream = self._context.upstream
        if upstream is None or upstream.readonly or entry.kind not in SHARED_KINDS:
            return entry
        try:
            if upstream.publish(entry.path, entry.kind, entry.key, replacing=replacing):
                return entry
            theirs = self._bring(entry.kind, entry.key, replacing=True)
            if theirs is not None:
                return theirs
            upstream.publish(entry.path, entry.kind, entry.key, replacing=True)  # theirs is damaged
        except UpstreamError as error:
            self._pending.add(entry, error)
        return entry

    @contextlib.contextmanager
    def lock(
        self, kind: str, key: Key | str, on_wait: Callable[[str], None], *, timeout_s: float = LOCK_TIMEOUT_S
    ) -> Iterator[Lock]:
        """Keep other processes from doing the same work; read again once it was granted.

        `on_wait` hears who holds it and since when. After `timeout_s` the block runs without the lock:
        that costs work, never correctness.
        """
        name = _checked(kind, key)
        with contextlib.suppress(OSError):
            self._context.prepare()
        file, label = self.lock_file(kind, name), f"{kind}/{name[:12]}"
        with file_lock(file, on_wait, label, timeout_s, self._context.warn) as lock:
            alone = lock.held or kind != "adapters"
            with contextlib.nullcontext() if alone else self._checkpoints.apart(name):
                yield lock

    def lock_file(self, kind: str, name: str) -> Path:
        """Return the file that is locked while somebody makes an entry."""
        return self.root / "locks" / f"{kind}-{name}.lock"

    def entries(self, kind: str) -> list[Entry]:
        """List the entries of a kind by their manifests, the newest first; file contents are not checked.

        What lies upstream is listed too, under the path where `read` would put it.
        """
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not a kind of entry; there are {', '.join(KINDS)}")
        return self._listing.entries(kind)

    def alike(self, kind: str, key: Key) -> list[Entry]:
        """List the entries that differ from `key` at most in the environment, newest first.

        None of them is verified, and one from upstream is not even here: `read` it by its key before it is used.
        """
        return self._listing.alike(kind, key)

    def runs(self, about: str, value: object) -> list[str]:
        """Return the keys of the runs whose summary has this value under the name `about`, newest first."""
        return self._listing.runs(about, value)

    def checkpoints(self, key: Key | str) -> Path:
        """Return the folder for resumable training state of this key; gone once its adapter is committed.

        Ask inside `lock`: where the lock could not be had, the folder is this process's own, so that two
        trainings never write into one another's checkpoints.
        """
        return self._checkpoints.folder(_checked("adapters", key))

    def log(self, name: str) -> Path:
        """Return the file for the output of a server of that name; the last start's only is kept."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a log")
        with explained("make a folder for logs", self.root / LOGS):
            self._context.prepare()
            folder = self._quarantine.own_folder(LOGS)
        return folder / f"{name}.log"

    def last(self, name: str) -> Mapping[str, Any] | None:
        """Return what was remembered under `name`, None when there is nothing or it is damaged."""
        return self.notes.last(name)

    def remember(self, name: str, value: Mapping[str, Any]) -> None:
        """Remember a small JSON mapping under `name` in place of the one before."""
        self.notes.remember(name, value)

    def sha256_of(self, file: Path) -> str:
        """Return the SHA-256 of a file, hashed again only when it has changed on the disk."""
        return self._digests.sha256_of(file)

    def close(self) -> None:
        """Give up the marks that keep the entries read so far from garbage collection."""
        _close_all(self._in_use)

    def _verified(self, kind: str, name: str) -> Entry:
        """Mark the entry as in use, then verify it: in this order it cannot be collected in between."""
        folder = self.root / kind / name
        handle = shared(folder / MANIFEST)
        try:
            entry = verify(folder, kind, name)
            with contextlib.suppress(OSError):
                os.utime(folder)  # the folder's time is when the entry was last used
        except BaseException:
            if handle is not None:
                os.close(handle)
            raise
        if handle is not None:
            previous = self._in_use.get((kind, name))
            self._in_use[kind, name] = handle
            if previous is not None:
                os.close(previous)
        return entry

    def _publish(self, part: Path, kind: str, name: str, replacing: bool) -> None:
        """Rename the whole folder into place; a sound entry there stays, or changes places with it."""
        for _ in range(_ATTEMPTS):
            parent = self._quarantine.own_folder(kind)
            try:
                part.rename(parent / name)
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                if self.read(kind, name) is not None:
                    if replacing:
                        disk.exchange(part, parent / name)
                    return
            else:
                disk.sync_folder(parent)
                return

    def _clear_after_a_killed_writer(self, kind: str, name: str) -> None:
        """Drop what stays when a writer is killed between its commit and its end: its lock, its checkpoints."""
        lock, trained = self.lock_file(kind, name), kind == "adapters"
        if lock.exists() or (trained and self._checkpoints.exist(name)):
            with free_lock(lock) as free:  # somebody may be retraining, and needs its checkpoints
                if free and trained:
                    self._checkpoints.drop(name)


def _close_all(handles: dict[tuple[str, str], int]) -> None:
    while handles:
        os.close(handles.popitem()[1])


def _checked(kind: str, key: Key | str) -> str:
    """Return the key as a folder name; ValueError for a kind or a name that the store does not have."""
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not a kind of entry; there are {', '.join(KINDS)}")
    name = str(key)
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a key: letters, digits, dots, dashes and underscores only")
    return name
