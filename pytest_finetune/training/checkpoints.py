"""Checkpoints of an interrupted training: which are whole, whose they are, which is the newest."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from pytest_finetune.fingerprint import sha256_of
from pytest_finetune.yamlfile import JsonTree

SEAL: Final = "COMPLETE.json"
EVERY_S: Final = 60.0
"""What a kill costs at most, of a training whose checkpoints are quickly written."""
MOST_SHARE: Final = 0.05
_NAME: Final = re.compile(r"^checkpoint-(\d+)$")


class Checkpoint(NamedTuple):
    """A whole checkpoint: the optimizer step it was taken after, and its folder."""

    step: int
    folder: Path


@dataclass(slots=True)
class Pace:
    """When a checkpoint is worth its time: after a minute, while all together take at most a twentieth."""

    now: Callable[[], float]
    _began: float = 0.0
    _last: float = 0.0

    def begin(self) -> None:
        """Start with the first step."""
        self._began = self._last = self.now()

    def due(self, spent: float) -> bool:
        """Tell, after a step, whether to write one; `spent` are the seconds that went into checkpoints so far."""
        now = self.now()
        if now - self._last < EVERY_S or spent > MOST_SHARE * (now - self._began):
            return False
        self._last = now
        return True


def seal(folder: Path, identity: str) -> None:
    """Mark a checkpoint as whole: written last, it names the training and the sha256 of every file."""
    files = {path.relative_to(folder).as_posix(): sha256_of(path) for path in _files(folder)}
    text = json.dumps({"identity": identity, "files": files}, indent=1, sort_keys=True)
    staged = folder / f".{SEAL}"
    with staged.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    staged.replace(folder / SEAL)


def newest(checkpoints: Path, identity: str) -> Checkpoint | None:
    """Return the newest whole checkpoint of the training `identity`; None when there is none."""
    whole = [found for found in _all(checkpoints) if is_whole(found.folder, identity)]
    return max(whole, default=None)


def drop_others(checkpoints: Path, keep: Checkpoint | None) -> None:
    """Remove every checkpoint but `keep`: half-written ones, and those of another training."""
    for found in _all(checkpoints):
        if found != keep:
            shutil.rmtree(found.folder, ignore_errors=True)


def whole_steps(checkpoints: Path) -> list[int]:
    """Return the steps of the sealed checkpoints, oldest first, without reading their files again."""
    return [found.step for found in _all(checkpoints) if (found.folder / SEAL).is_file()]


def keep_newest(checkpoints: Path) -> None:
    """Make room: remove every checkpoint but the newest sealed one, also what was written by half."""
    kept = max(whole_steps(checkpoints), default=None)
    drop_others(checkpoints, next((found for found in _all(checkpoints) if found.step == kept), None))


def is_whole(folder: Path, identity: str) -> bool:
    """Tell whether a folder was sealed for the training `identity`, and every file is as it was then."""
    try:
        sealed: JsonTree = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        if sealed["identity"] != identity:
            return False
        return all(sha256_of(folder / name) == digest for name, digest in sealed["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _all(checkpoints: Path) -> list[Checkpoint]:
    if not checkpoints.is_dir():
        return []
    named = ((_NAME.match(path.name), path) for path in checkpoints.iterdir() if not path.is_symlink())
    return sorted(Checkpoint(int(match[1]), path) for match, path in named if match and path.is_dir())


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in (SEAL, f".{SEAL}")
    )
