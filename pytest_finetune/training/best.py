"""The adapter with the lowest loss on the development rows, kept beside the checkpoints while the training goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pytest_finetune.training.checkpoints import SEAL, is_whole, seal
from pytest_finetune.training.request import TrainingError

LOOKS: Final = 10
"""How many times, evenly spread over the steps, the development rows are looked at; each epoch's end comes on top."""

Log = Sequence[Mapping[str, float]]


def is_due(step: int, steps: int) -> bool:
    """Tell whether the development rows are looked at after this step of so many."""
    return step % max(1, steps // LOOKS) == 0


def best_step(log: Log) -> int | None:
    """Return the step of the lowest `dev_loss` in a trainer's log, the earliest of equals."""
    found = [(entry["dev_loss"], int(entry["step"])) for entry in log if "dev_loss" in entry]
    return min(found)[1] if found else None


class Best:
    """Keeps the best adapter so far; `write` puts the adapter of this moment into a folder.

    What is best is read from the trainer's log, which a checkpoint holds, so a training that is resumed keeps what one
    that was never interrupted would have kept.
    """

    def __init__(self, checkpoints: Path, identity: str, write: Callable[[Path], None]) -> None:
        self._checkpoints, self._identity, self._write = checkpoints, identity, write

    def consider(self, log: Log) -> None:
        """Keep the adapter of this moment if the last look at the development rows was the best.

        Of a model that is shared out every process has to give its share; the first writes.
        """
        from pytest_finetune.training.processes import ranks

        step = best_step(log)
        if step != log[-1]["step"]:
            return
        folder, first = self._folder(step), ranks.is_first()
        if first:
            shutil.rmtree(folder, ignore_errors=True)
        self._write(folder)
        if first:
            seal(folder, self._identity)

    def forget_others(self, log: Log) -> None:
        """Remove what is not the best; called once a checkpoint holds this log, for a resumed training has no other."""
        step = best_step(log)
        for folder in self._checkpoints.glob("best-*"):
            if step is None or folder != self._folder(step):
                shutil.rmtree(folder, ignore_errors=True)

    def take(self, log: Log, folder: Path) -> int:
        """Move the best adapter into `folder` and return its step."""
        step = best_step(log)
        if step is None or not is_whole(self._folder(step), self._identity):
            raise TrainingError(
                f"training.keep: best: the adapter of step {step} is no longer whole in {self._checkpoints}\n"
                "  run again: the training goes on from its last checkpoint, or with --finetune-retrain from the start"
            )
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._folder(step).iterdir()):
            if path.name != SEAL:
                shutil.move(path, folder / path.name)
        return step

    def _folder(self, step: int) -> Path:
        return self._checkpoints / f"best-{step}"
