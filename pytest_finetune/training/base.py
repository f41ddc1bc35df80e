"""Where the base model comes from, and whether it can be loaded safely: pickles are refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.fingerprint import (
    BaseModelError,
    cached_snapshot,
    check_model,
    configurations,
    refuse_code,
)
from pytest_finetune.training.request import TrainingError

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment

QUANTIZATIONS: Final = ("none", "nf4", "int8")


@dataclass(frozen=True, slots=True)
class BaseSource:
    """A base model by name: `name` is a folder or a hub id, `quantization` none, nf4 or int8.

    `dtype` names the one to compute in; None leaves it to the device. `attention` is the implementation that was asked
    for; None is what the architecture can do: sdpa, else eager.
    """

    name: str
    revision: str | None = None
    quantization: str = "none"
    trust_remote_code: bool = False
    dtype: str | None = None
    attention: str | None = None

    def __post_init__(self) -> None:
        """Check the word for the quantization."""
        if self.quantization not in QUANTIZATIONS:
            raise ValueError(f"quantization {self.quantization!r}: known are {', '.join(QUANTIZATIONS)}")

    @property
    def local(self) -> bool:
        """Tell whether the base is a folder here, so that nothing may ask the network."""
        return Path(self.name).is_dir()


def source_of(experiment: Experiment, base: str) -> BaseSource:
    """Return the source of an experiment's base model, found under the name `base`.

    A hub id is the snapshot in the cache, whose digests are in the key: the hub is not asked again, which takes minutes
    of retries where it cannot be reached. One that is not whole there, or brings code of its own, stays a hub id.
    """
    name = base if Path(base).is_dir() else str(_whole_snapshot(experiment, base) or base)
    return BaseSource(
        name,
        None if Path(name).is_dir() else experiment.revision,
        experiment.quantization,
        experiment.trust_remote_code,
        attention=experiment.attn_implementation,
    )


def _whole_snapshot(experiment: Experiment, hub_id: str) -> Path | None:
    snapshot = cached_snapshot(hub_id, experiment.revision)
    if snapshot is None or experiment.trust_remote_code:
        return None
    try:
        check_model(snapshot)
    except (BaseModelError, OSError):
        return None
    return snapshot


def check_folder(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Raise TrainingError unless the folder holds a whole model in safetensors and a tokenizer, and no foreign code."""
    try:
        check_model(folder)
        configs = configurations(folder)
        if not trust_remote_code:
            refuse_code(folder, configs)
    except OSError as error:
        raise TrainingError(f"base model: {error.filename!r} cannot be read ({error.strerror})") from error
    except BaseModelError as error:
        raise TrainingError(str(error)) from None
