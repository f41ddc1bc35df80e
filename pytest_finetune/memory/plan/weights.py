"""Which files of a base model are held against its configuration before a plan is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

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

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment

SCHEMA: Final = 1


class Files(NamedTuple):
    """A base model's files: whether they are the model of their `config.json` is kept under the key."""

    base_model: str
    folder: Path
    key: Key


def files_to_check(experiment: Experiment) -> Files | None:
    """Return the files that the tracing process holds against the model, by the names and shapes of their tensors.

    None for a base that lies here without its weights, or that needs code or a dequantisation to be loaded: it is
    judged when it is loaded.
    """
    try:
        folder = base_folder(experiment)
        if experiment.trust_remote_code or not has_tokenizer(folder):
            return None
        config = configurations(folder)["config.json"]
        tensors = weight_tensors(folder)
    except (BaseModelError, OSError):
        return None  # another check says what is wrong with the files
    if own_quantization(config) is not None:
        return None
    shapes = [[name, tensor.dtype, list(tensor.shape)] for name, tensor in sorted(tensors.items())]
    fields = {"config": portable(config), "tensors": shapes}
    key = Key.of({"schema": SCHEMA, **fields, "environment": package_versions(("torch", "transformers"))})
    return Files(experiment.base_model, folder, key)
