"""Ask, before a plan is made of a base, whether its files are the model that its configuration describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.fingerprint import (
    BaseModelError,
    Key,
    base_folder,
    configurations,
    has_tokenizer,
    own_quantization,
    package_versions,
    portable,
    weight_tensors,
)
from pytest_finetune.memory.plan.figures import PlanError
from pytest_finetune.memory.plan.planner import run_elsewhere

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.store import Store

SCHEMA: Final = 1
_FILE: Final = "trouble.txt"


def check_weights(experiment: Experiment, store: Store | None) -> None:
    """Raise PlanError when tensors are missing, of another shape or without a place; each base is asked once.

    A process of its own loads the names and shapes alone. A base that lies here without its weights, or that needs
    code or a dequantisation to be loaded, is judged when it is loaded.
    """
    try:
        folder = base_folder(experiment)
        if experiment.trust_remote_code or not has_tokenizer(folder):
            return
        config = configurations(folder)["config.json"]
        tensors = weight_tensors(folder)
    except (BaseModelError, OSError):
        return  # another check says what is wrong with the files
    if own_quantization(config) is not None:
        return
    shapes = [[name, tensor.dtype, list(tensor.shape)] for name, tensor in sorted(tensors.items())]
    fields = {"config": portable(config), "tensors": shapes}
    key = Key.of({"schema": SCHEMA, **fields, "environment": package_versions(("torch", "transformers"))})
    trouble = _trouble(folder, key, store)
    if trouble:
        raise PlanError(f"base model: {experiment.base_model!r}: {trouble}")


def _trouble(folder: Path, key: Key, store: Store | None) -> str:
    entry = store.read("plans", key) if store is not None else None
    if entry is not None:
        return (entry.path / _FILE).read_text(encoding="utf-8")
    try:
        trouble = run_elsewhere("weights", str(folder)).strip()
    except PlanError:
        return ""  # what cannot be built cannot be planned, and the plan says it better
    if store is not None:
        store.commit("plans", key, lambda into: _write(into, trouble))
    return trouble


def _write(into: Path, trouble: str) -> None:
    (into / _FILE).write_text(trouble, encoding="utf-8")
