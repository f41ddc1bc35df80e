"""What any trainer brings back is held to the same: its files are there and every loss is a number."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

from pytest_finetune.training.artifact import PICKLES, missing_file
from pytest_finetune.training.request import TrainingError, TrainingResult

if TYPE_CHECKING:
    from pytest_finetune.training.request import TrainingRequest, TrainingResult


def checked(request: TrainingRequest, result: object) -> TrainingResult:
    """Return the result with its files in ``request.folder``; TrainingError when it cannot be kept.

    The store checks further what is in the files: safetensors only, every number finite, no configuration that
    imports code.
    """
    if not isinstance(result, TrainingResult):
        raise TrainingError(
            f"pytest_finetune_train returned {result!r:.80} ({type(result).__name__}), not a TrainingResult\n"
            "  return TrainingResult(folder=request.folder, steps=..., seconds=..., final_loss=..., log=())"
        )
    losses = [*(entry.get("loss") for entry in result.log), result.final_loss]
    broken = next((loss for loss in losses if loss is not None and not math.isfinite(loss)), None)
    if broken is not None:
        raise TrainingError(f"the trainer reports a loss of {broken}: such a training is not kept")
    if result.folder.resolve() != request.folder.resolve():
        _fetch(request, result)
    _check_files(request)
    return result


def _fetch(request: TrainingRequest, result: TrainingResult) -> None:
    if not result.folder.is_dir():
        raise TrainingError(f"the trainer names {str(result.folder)!r} as its folder, and there is none")
    for file in result.folder.iterdir():
        if file.is_file() and not file.is_symlink():
            shutil.copyfile(file, request.folder / file.name)


def _check_files(request: TrainingRequest) -> None:
    method = request.experiment.peft_method
    missing = missing_file(request.folder, method)
    if missing is None:
        return
    found = sorted(file.name for file in request.folder.iterdir())
    pickles = [name for name in found if name.endswith(PICKLES)]
    told = ", ".join(found[:8]) or "nothing"
    why = f"; {pickles[0]} is a pickle, which can run code when it is loaded" if pickles else ""
    raise TrainingError(
        f"the trainer left no {missing} for peft_method: {method} (found: {told}{why}): nothing was stored\n"
        "  save with safetensors into request.folder: model.save_pretrained(request.folder)"
    )
