"""Entries that could not be uploaded: kept locally, reported, and retried by the next run that uses them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from pytest_finetune.store.context import StoreContext
from pytest_finetune.store.disk import write_atomically
from pytest_finetune.store.manifest import Entry
from pytest_finetune.store.shared.upstream import UpstreamError

UNSENT: Final = "unsent"


class PendingUploads:
    """One empty file for each entry that is not uploaded yet."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def add(self, entry: Entry, error: UpstreamError) -> None:
        """Mark an entry, and report that it is kept here."""
        with contextlib.suppress(OSError):  # then it is only not tried again
            write_atomically(mark(self._context.root, entry.kind, entry.key), b"")
        self._context.warn(
            f"store: {entry.kind}/{entry.key[:12]} was not uploaded: {error}; it is whole in {entry.path}, and the "
            "next run that uses it uploads it"
        )

    def take(self, kind: str, key: str) -> bool:
        """Tell whether an entry is marked, and remove the mark: whoever asks tries again."""
        try:
            mark(self._context.root, kind, key).unlink()
        except OSError:
            return False
        return True


def mark(root: Path, kind: str, key: str) -> Path:
    """Return the file that marks an entry as not yet shared."""
    return root / UNSENT / f"{kind}-{key}"
