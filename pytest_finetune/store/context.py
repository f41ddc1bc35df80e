"""What every part of a store shares: its root folder, its warnings, and the place for damaged entries."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_finetune.store.disk import write_atomically
from pytest_finetune.store.shared.upstream import Upstream

SET_ASIDE: Final = "set-aside"


@dataclass(frozen=True, slots=True)
class StoreContext:
    """The root folder of a store, the upstream that it shares with others, and its warnings for the user."""

    root: Path
    upstream: Upstream | None = None
    warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        """Keep a message for the user, once."""
        if message not in self.warnings:
            self.warnings.append(message)

    def prepare(self) -> None:
        """Make the root, invisible to git; OSError when it cannot be written."""
        if not (self.root / ".gitignore").exists():
            write_atomically(self.root / ".gitignore", b"*\n")


class Quarantine:
    """Damaged entries are moved to ``set-aside/``, kept for inspection, and reported."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def set_aside(self, path: Path, why: str, inode: int) -> bool:
        """Move the thing that had this inode at `path` out of the way, with a warning.

        Return False, and leave it alone, when something else stands there by now: another process has
        set the damaged one aside, and perhaps committed a good one.
        """
        label = path.relative_to(self._context.root).as_posix()
        try:
            if path.lstat().st_ino != inode:
                return False
            target = self._free_place(label)
            path.rename(target)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._context.warn(
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
        self._context.warn(f"store: {label} counts as a miss: {why} (set aside at {target})")
        return True

    def own_folder(self, name: str) -> Path:
        """Return a folder of the store, made when absent; a link or a file in its place is set aside."""
        folder = self._context.root / name
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            self.set_aside(
                folder, "a link or a file in place of a folder of the store", folder.lstat().st_ino
            )
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _free_place(self, label: str) -> Path:
        folder = self._context.root / SET_ASIDE
        if folder.is_symlink():
            folder.unlink()  # a link out of the store would carry the damaged thing out of it
        folder.mkdir(exist_ok=True)
        return folder / f"{label.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
