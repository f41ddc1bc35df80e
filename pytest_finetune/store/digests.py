"""File digests remembered between runs, so that gigabytes of base weights are hashed once."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Final

from pytest_finetune.fingerprint import canonical_json, digest, sha256_of
from pytest_finetune.store.context import StoreContext
from pytest_finetune.store.disk import write_atomically

_RACY_NS: Final = 2_000_000_000
_WORTH_BYTES: Final = 4 * 1024 * 1024


class DigestFile:
    """A folder of small files, one for each hashed file, valid while size, times and inode stay."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context
        self._folder = context.root / "digests"

    def sha256_of(self, file: Path) -> str:
        """Return the SHA-256 of `file`, from memory when nothing about the file has changed.

        A file changed in the last two seconds is not remembered: a second change could carry the same
        time. Small files are always hashed.
        """
        path = file.resolve()
        before = _identity(path)
        if before["size"] < _WORTH_BYTES:
            return sha256_of(path)
        note = self._folder / f"{digest(str(path))}.json"
        known = _remembered(note, before)
        if known is not None:
            return known
        sha256 = sha256_of(path)
        settled = time.time_ns() - max(before["mtime_ns"], before["ctime_ns"]) > _RACY_NS
        if settled and _identity(path) == before:
            body = {"path": str(path), "file": before, "sha256": sha256}
            with contextlib.suppress(OSError):  # a store that cannot be written only costs the next hashing
                self._context.prepare()
                write_atomically(note, canonical_json(body | {"check": digest(body)}))
        return sha256


def _identity(path: Path) -> dict[str, int]:
    status = path.stat()
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,  # set by every write, also by one that restores the modification time
        "inode": status.st_ino,
        "device": status.st_dev,
    }


def _remembered(note: Path, identity: dict[str, int]) -> str | None:
    try:
        body = json.loads(note.read_bytes())
        check = body.pop("check")
        if check == digest(body) and body["file"] == identity:
            return str(body["sha256"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass
    return None
