"""Setting aside: what is damaged leaves its place, stays for a look, and is spoken of."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import Final

from pytest_finetune.store.context import Ground

SET_ASIDE: Final = "set-aside"


class Shelf:
    """The folder ``set-aside/`` of a store."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def set_aside(self, path: Path, why: str, inode: int) -> bool:
        """Move the thing that had this inode at `path` out of the way, with a warning.

        Return False, and leave it alone, when something else stands there by now: another process has
        set the damaged one aside, and perhaps committed a good one.
        """
        label = path.relative_to(self._ground.root).as_posix()
        try:
            if path.lstat().st_ino != inode:
                return False
            target = self._free_place(label)
            path.rename(target)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._ground.warn(
                f"store: {label} counts as a miss: {why} (it cannot be moved away: {error.strerror})"
            )
            return True
        if target.lstat().st_ino != inode:
            # It was replaced between the two calls. Give the good one back; when a third one has come, that
            # one is as good.
            with contextlib.suppress(OSError):
                target.rename(path)
            return False
        with contextlib.suppress(OSError):
            target.with_name(f"{target.name}.txt").write_text(f"{label}: {why}\n", encoding="utf-8")
        self._ground.warn(f"store: {label} counts as a miss: {why} (set aside at {target})")
        return True

    def own_folder(self, name: str) -> Path:
        """Return a folder of the store, made when absent; a link or a file in its place is set aside."""
        folder = self._ground.root / name
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            self.set_aside(
                folder, "a link or a file in place of a folder of the store", folder.lstat().st_ino
            )
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _free_place(self, label: str) -> Path:
        shelf = self._ground.root / SET_ASIDE
        if shelf.is_symlink():
            shelf.unlink()  # a link out of the store would carry the damaged thing out of it
        shelf.mkdir(exist_ok=True)
        return shelf / f"{label.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
