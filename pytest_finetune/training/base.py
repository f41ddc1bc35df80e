"""Where the base model comes from, and whether it can be loaded safely: pickles are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.training.request import TrainingError

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment

_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
QUANTIZATIONS: Final = ("none", "nf4", "int8")


@dataclass(frozen=True, slots=True)
class BaseSource:
    """A base model by name: `name` is a folder or a hub id, `quantization` none, nf4 or int8.

    `dtype` names the one to compute in; None leaves it to the device.
    """

    name: str
    revision: str | None = None
    quantization: str = "none"
    trust_remote_code: bool = False
    dtype: str | None = None

    def __post_init__(self) -> None:
        """Check the word for the quantization."""
        if self.quantization not in QUANTIZATIONS:
            raise ValueError(f"quantization {self.quantization!r}: known are {', '.join(QUANTIZATIONS)}")

    @property
    def local(self) -> bool:
        """Tell whether the base is a folder here, so that nothing may ask the network."""
        return Path(self.name).is_dir()


def source_of(experiment: Experiment, base: str) -> BaseSource:
    """Return the source of an experiment's base model, found under the name `base`."""
    revision = None if Path(base).is_dir() else experiment.revision
    return BaseSource(base, revision, experiment.quantization, experiment.trust_remote_code)


def check_folder(folder: Path) -> None:
    """Raise TrainingError unless the folder holds a model in safetensors and a tokenizer."""
    name = str(folder)
    if not folder.is_dir():
        raise TrainingError(f"base model {name!r}: there is no such folder")
    if not (folder / "config.json").is_file():
        raise TrainingError(f"base model {name!r}: no config.json, so this is no model folder")
    _check_weights(folder)
    if not has_tokenizer(folder):
        raise TrainingError(
            f"base model {name!r}: no tokenizer (tokenizer.json, tokenizer_config.json or tokenizer.model)\n"
            "  copy the tokenizer files of the model that it comes from into the folder"
        )


def has_tokenizer(folder: Path) -> bool:
    """Tell whether the folder holds a file of a tokenizer."""
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    return any((folder / file).is_file() for file in files)


def _check_weights(folder: Path) -> None:
    name = str(folder)
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise TrainingError(
                f"base model {name!r}: the weights are only there as {', '.join(pickles)}, and loading such "
                "a file can run code: refused\n"
                "  convert them once, where you trust them: "
                "AutoModelForCausalLM.from_pretrained(...).save_pretrained(folder, safe_serialization=True)"
            )
        raise TrainingError(f"base model {name!r}: no weights (*.safetensors) in the folder")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        missing = sorted(_indexed(index) - set(weights))
        if missing:
            raise TrainingError(
                f"base model {name!r}: {index.name} names files that are missing: {', '.join(missing)}"
            )


def _indexed(index: Path) -> set[str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
        return {str(file) for file in found["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise TrainingError(f"base model {str(index.parent)!r}: {index.name} is unreadable") from None
