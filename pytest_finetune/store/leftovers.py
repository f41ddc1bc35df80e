"""What a killed process leaves in a store, and how to tell it from the work of a living one."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_finetune.store import disk
from pytest_finetune.store.lock import exclusive, process_exists

PLACES: Final = (
    "tmp-*",
    ".tmp-*",
    "last/.tmp-*",
    "pins/.tmp-*",
    "digests/.tmp-*",
    "unsent/.tmp-*",
    "checkpoints/*.tmp-*",
)
_WRITER: Final = re.compile(r"tmp-(?P<host>[^-]+)-(?P<pid>\d+)-[0-9a-f]{32}$")
_YOUNG_S: Final = 60.0


def sweep(root: Path) -> None:
    """Remove the half-written folders and files of this machine's dead processes; errors are passed over."""
    for path in find(root):
        with contextlib.suppress(OSError):
            if _is_dead(path):
                disk.remove_tree(path)


def find(root: Path) -> Iterator[Path]:
    """Yield everything in the store that is, or was, being written."""
    for pattern in PLACES:
        yield from root.glob(pattern)


def _is_dead(path: Path) -> bool:
    """Tell that the writer is gone: no such process here, and nobody holds the folder.

    A container of the same name has other process ids, hence the second test for folders, and some
    patience for files, which nobody holds.
    """
    writer = _WRITER.search(path.name)
    if writer is None or writer["host"] != disk.host_name() or process_exists(int(writer["pid"])):
        return False
    if not path.is_dir():
        return time.time() - path.lstat().st_mtime > _YOUNG_S
    handle = exclusive(path)
    if handle is None:
        return False
    os.close(handle)
    return True
