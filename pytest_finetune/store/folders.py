"""The store: folders named by their key, written once and checked on every read."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pytest_finetune.fingerprint import Key
from pytest_finetune.store import disk
from pytest_finetune.store.digests import DigestFile
from pytest_finetune.store.disk import StoreError, explained
from pytest_finetune.store.lock import Lock, exclusive, file_lock, process_exists, shared
from pytest_finetune.store.looks import LookBook
from pytest_finetune.store.manifest import (
    MANIFEST,
    DefectError,
    Entry,
    check_adapter,
    describe,
    parse,
    render,
    verify,
)
from pytest_finetune.store.notes import Notes

KINDS: Final = ("adapters", "outputs", "plans", "bases")
SET_ASIDE: Final = "set-aside"
CHECKPOINTS: Final = "checkpoints"

LOCK_TIMEOUT_S: Final = 12 * 3600.0
_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")
_TAKEN: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR})
_ATTEMPTS: Final = 5


class Store:
    """Content-addressed folders ``<root>/<kind>/<key>/`` of adapters, raw outputs, memory plans and bases.

    Making a Store writes nothing. `warnings` collects, for the user, what was set aside or passed over.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.warnings: list[str] = []
        self.looks = LookBook(self.root / "looks", self._warn, self._prepare)
        self.notes = Notes(self.root, self._warn, self._prepare)
        self._digests = DigestFile(self.root / "digests", self._prepare)
        self._in_use: dict[tuple[str, str], int] = {}
        self._without_lock: set[str] = set()

    def read(self, kind: str, key: Key | str) -> Entry | None:
        """Return the entry when it is there and every byte is as committed, else None.

        A damaged entry is moved to `set-aside/` with a line in `warnings`, and counts as a miss. The
        entry is marked as in use until `close` or the end of the process.
        """
        name = _checked(kind, key)
        folder = self.root / kind / name
        try:
            if (self.root / kind).is_symlink():
                raise DefectError("its parent folder is a link out of the store")
            entry = verify(folder, kind, name)
        except FileNotFoundError:
            return None
        except DefectError as defect:
            self._set_aside(folder, str(defect))
            return None
        except OSError as error:
            if not os.path.lexists(folder):
                return None
            self._warn(f"{disk.explanation(f'read {kind}/{name[:12]}', folder, error)}; it counts as a miss")
            return None
        self._use(entry)
        return entry

    def commit(
        self,
        kind: str,
        key: Key | str,
        write: Callable[[Path], None],
        about: Mapping[str, Any] | None = None,
    ) -> Entry:
        """Let `write` fill an empty folder and make it the entry, whole or not at all.

        The first writer wins: when the entry is there by then, it is verified and returned, and this one's
        files are dropped. What `write` raises is raised on. Raises StoreError when the files must not be
        stored (a pickle, a number that is not finite) or cannot be (disk full, read-only).
        """
        name = _checked(kind, key)
        action = f"store {kind}/{name[:12]}"
        with explained(action, self.root):
            self._prepare()
            self._sweep()
            part = self.root / disk.temporary_name()
            part.mkdir()
        guard = exclusive(part)
        try:
            self._write(write, part, action)
            with explained(action, self.root):
                data = self._seal(part, kind, key, about or {})
                entry = self._publish(part, kind, name, data, action)
        finally:
            with contextlib.suppress(OSError):
                disk.remove_tree(part)
            if guard is not None:
                os.close(guard)
        if kind == "adapters":
            self._drop_checkpoints(name)
        self._use(entry)
        return entry

    @contextlib.contextmanager
    def lock(
        self, kind: str, key: Key | str, on_wait: Callable[[str], None], *, timeout_s: float = LOCK_TIMEOUT_S
    ) -> Iterator[Lock]:
        """Keep other processes from doing the same work; read again after it was granted.

        `on_wait` hears who holds it and since when. After `timeout_s` the block runs without the lock:
        that costs work, never correctness.
        """
        name = _checked(kind, key)
        with contextlib.suppress(StoreError, OSError):
            self._prepare()
        file = self.root / "locks" / f"{kind}-{name}.lock"
        with file_lock(file, on_wait, f"{kind}/{name[:12]}", timeout_s, self._warn) as lock:
            if not lock.held:
                self._without_lock.add(name)
            try:
                yield lock
            finally:
                self._without_lock.discard(name)

    def entries(self, kind: str) -> list[Entry]:
        """List the entries of a kind by their manifests, the newest first; file contents are not checked."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not a kind of entry; there are {', '.join(KINDS)}")
        found = []
        with contextlib.suppress(OSError):
            for folder in sorted((self.root / kind).iterdir()):
                try:
                    found.append(parse((folder / MANIFEST).read_bytes(), kind, folder.name, folder))
                except (DefectError, OSError):
                    self._warn(f"store: {folder} has no sound manifest and was passed over")
        return sorted(found, key=lambda entry: entry.created, reverse=True)

    def checkpoints(self, key: Key | str) -> Path:
        """Return the folder for resumable training state of this key; gone once its adapter is committed.

        Ask inside `lock`: where the lock could not be had, the folder is this process's own, so that two
        trainings never write into one another's checkpoints.
        """
        name = _checked("adapters", key)
        folder = self.root / CHECKPOINTS / name
        if name in self._without_lock:
            folder = folder.with_name(f"{name}.{disk.temporary_name()}")
        with explained("make a folder for checkpoints", folder):
            self._prepare()
            folder.mkdir(parents=True, exist_ok=True)
        return folder

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
        while self._in_use:
            os.close(self._in_use.popitem()[1])

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    def _prepare(self) -> None:
        """Create the root, invisible to git."""
        if not (self.root / ".gitignore").exists():
            disk.write_atomically(self.root / ".gitignore", b"*\n")

    def _use(self, entry: Entry) -> None:
        place = (entry.kind, entry.key)
        with contextlib.suppress(OSError):
            os.utime(entry.path)  # the folder's time is when the entry was last used
        if place not in self._in_use:
            with contextlib.suppress(OSError):
                handle = shared(entry.path / MANIFEST)
                if handle is not None:
                    self._in_use[place] = handle

    def _write(self, write: Callable[[Path], None], part: Path, action: str) -> None:
        try:
            write(part)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise StoreError(disk.explanation(action, self.root, error)) from error
            raise

    def _seal(self, part: Path, kind: str, key: Key | str, about: Mapping[str, Any]) -> bytes:
        """Check, sync and list what was written; the manifest comes last."""
        try:
            files = describe(part)
            if (part / MANIFEST).exists() or not files:
                raise DefectError(
                    "nothing was written" if not files else f"{MANIFEST} is the store's own file"
                )
            if kind == "adapters":
                check_adapter(part, files)
        except DefectError as defect:
            raise StoreError(f"store: {kind}/{str(key)[:12]} was not stored: {defect}") from None
        for name in files:
            disk.sync_file(part / name)
        for folder in {(part / name).parent for name in files}:
            disk.sync_folder(folder)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        fields = key.fields if isinstance(key, Key) else {}
        data = render(kind, str(key), files, about, fields, created)
        disk.write_durably(part / MANIFEST, data)
        disk.sync_folder(part)
        return data

    def _publish(self, part: Path, kind: str, name: str, data: bytes, action: str) -> Entry:
        parent = self.root / kind
        for _ in range(_ATTEMPTS):
            if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
                self._set_aside(parent, "a link or a file stands in place of the store's folder")
            parent.mkdir(exist_ok=True)
            try:
                part.rename(parent / name)
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                winner = self.read(kind, name)
                if winner is not None:
                    return winner
            else:
                disk.sync_folder(parent)
                return parse(data, kind, name, parent / name)
        raise StoreError(f"store: cannot {action}: something unusable keeps standing at {parent / name}")

    def _set_aside(self, path: Path, why: str) -> None:
        """Move what is damaged out of the way, keep it for a look, and say so."""
        label = path.relative_to(self.root).as_posix()
        shelf = self.root / SET_ASIDE
        target = shelf / f"{label.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
        try:
            before = path.lstat()
            shelf.mkdir(exist_ok=True)
            path.rename(target)
        except FileNotFoundError:
            return  # another process has done it
        except OSError as error:
            trouble = f"damaged ({why}) and cannot be moved ({error.strerror})"
            self._warn(f"store: {label} is {trouble}; it counts as a miss")
            return
        if target.lstat().st_ino != before.st_ino:
            # Another process replaced the damaged entry by a good one in between: give that one back.
            with contextlib.suppress(OSError):
                target.rename(path)
            return
        with contextlib.suppress(OSError):
            target.with_name(f"{target.name}.txt").write_text(f"{label}: {why}\n", encoding="utf-8")
        self._warn(f"store: {label} was set aside and counts as a miss: {why} (kept at {target})")

    def _drop_checkpoints(self, name: str) -> None:
        with contextlib.suppress(OSError):
            for folder in (self.root / CHECKPOINTS).glob(f"{name}*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what writers of this machine left behind when they were killed."""
        for folder in self.root.glob(f"tmp-{disk.host_name()}-*"):
            pid = folder.name.removeprefix(f"tmp-{disk.host_name()}-").partition("-")[0]
            if not pid.isdigit() or process_exists(int(pid)):
                continue
            handle = exclusive(folder)  # a living writer of another container with this name holds it
            if handle is not None:
                with contextlib.suppress(OSError):
                    disk.remove_tree(folder)
                os.close(handle)


def _checked(kind: str, key: Key | str) -> str:
    """Return the key as a folder name; ValueError for a kind or a name that the store does not have."""
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not a kind of entry; there are {', '.join(KINDS)}")
    name = str(key)
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a key: letters, digits, dots, dashes and underscores only")
    return name
