"""What a training can be resumed from: one folder for each adapter's key, gone once the adapter is committed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pytest_finetune.store.context import Quarantine, StoreContext
from pytest_finetune.store.disk import explained, temporary_name

CHECKPOINTS: Final = "checkpoints"


class Checkpoints:
    """The folder ``checkpoints/`` of a store."""

    def __init__(self, context: StoreContext, quarantine: Quarantine) -> None:
        self._context = context
        self._quarantine = quarantine
        self._place = context.root / CHECKPOINTS
        self._apart: dict[str, Path] = {}

    def folder(self, name: str) -> Path:
        """Return the folder of a key, made when absent; a link in its place is set aside."""
        with explained("make a folder for checkpoints", self._place):
            self._context.prepare()
            self._quarantine.own_folder(CHECKPOINTS)
            folder = self._of(name)
            if folder.is_symlink():
                self._quarantine.set_aside(folder, "a link in place of checkpoints", folder.lstat().st_ino)
            folder.mkdir(exist_ok=True)
        return folder

    @contextmanager
    def apart(self, name: str) -> Iterator[None]:
        """Give this process a folder of its own for the block: another one may train the same without a lock."""
        self._apart[name] = self._place / f"{name}.{temporary_name()}"
        try:
            yield
        finally:
            del self._apart[name]

    def exist(self, name: str) -> bool:
        """Tell whether a training of this key has left something to resume."""
        return (self._place / name).exists()

    def drop(self, name: str) -> None:
        """Remove the folder of a key, never what a link in its place points to."""
        folder = self._of(name)
        if not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)

    def _of(self, name: str) -> Path:
        return self._apart.get(name, self._place / name)
