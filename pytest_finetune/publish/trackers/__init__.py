"""Where a run is followed while it goes on: TensorBoard's files, a server of MLflow, Weights & Biases.

Nothing is written or sent unless ``--finetune-track`` names it, and then numbers and settings only: no text of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from pytest_finetune.publish.trackers.mlflow_run import MlflowTracker
from pytest_finetune.publish.trackers.tensorboard_files import TensorboardTracker
from pytest_finetune.publish.trackers.tracker import Tracker, TrackingError
from pytest_finetune.publish.trackers.wandb_run import WandbTracker

_KINDS: Final[dict[str, Callable[[str, Path], Tracker]]] = {
    "tensorboard": TensorboardTracker,
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
}

__all__ = ["Tracker", "TrackingError", "trackers"]


def trackers(words: Sequence[str], folder: Path) -> list[Tracker]:
    """Return the trackers that were named, each as NAME or NAME:WHERE; TrackingError for a name that is none.

    `folder` is the record's. Nothing is imported or asked before `check`.
    """
    found = []
    for word in dict.fromkeys(words):
        name, _, where = word.partition(":")
        if name not in _KINDS:
            raise TrackingError(f"--finetune-track={word}: no such tracker: write {', '.join(_KINDS)}")
        found.append(_KINDS[name](where, folder))
    return found
