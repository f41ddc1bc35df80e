"""Take an adapter (or a whole model) that another tool trained, as that tool left it, in place of a training.

The output folders of transformers, TRL, axolotl, LLaMA-Factory and unsloth hold more than an adapter: only its two
files are copied. Pickles among the rest (`training_args.bin`, `optimizer.pt`) are left behind unopened.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.experiment import is_hub_id
from pytest_finetune.fingerprint import (
    BaseModelError,
    adapter_digest,
    base_folder,
    cached_snapshot,
    weight_tensors,
)
from pytest_finetune.safetensors_check import TensorFileError, read_header
from pytest_finetune.training.artifact import (
    ADAPTER,
    ADAPTER_CONFIG,
    MODEL_CONFIG,
    PICKLES,
    WHOLE_MODEL,
    is_whole_model,
    missing_file,
)
from pytest_finetune.training.request import TrainingError, TrainingResult
from pytest_finetune.wording import listed

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.training.request import TrainingRequest


def given_folder(experiment: Experiment, named: str, key: str) -> Path:
    """Return the folder of an adapter that the experiment names under `key`; TrainingError when it holds none."""
    folder = (experiment.root / Path(named).expanduser()).resolve()
    if not folder.is_dir() and "/" in named and is_hub_id(named):
        snapshot = cached_snapshot(named)
        if snapshot is None:
            raise TrainingError(
                f"{key}: {named!r} is neither a folder of the project nor in the hub's cache\n  hf download {named}"
            )
        folder = snapshot
    if not folder.is_dir():
        raise TrainingError(f"{key}: {named!r}: there is no such folder ({folder})")
    if is_whole_model(folder) or (folder / ADAPTER).is_file():
        return folder
    raise TrainingError(f"{key}: {named!r} {_without_adapter(folder)}")


def given_problems(experiment: Experiment) -> str | None:
    """Return why the given adapter cannot be judged on the experiment's base, as far as files tell it."""
    key = "trained.adapter"
    try:
        folder = given_folder(experiment, str(experiment.trained), key)
        _check_method(folder, experiment, key, whole=is_whole_model(folder))
    except TrainingError as error:
        return str(error).partition(": ")[2]
    if is_whole_model(folder):
        return None
    try:
        base, adapter = weight_tensors(base_folder(experiment)), read_header(folder / ADAPTER)
    except (BaseModelError, TensorFileError, OSError):
        return None  # not fetched yet, or damaged: whoever reads the file says so
    # GPT-2 stores its weights turned round; numbers packed into bytes have other sides than their matrix.
    sides = {
        name.removesuffix(".weight"): tensor.shape
        for name, tensor in base.items()
        if len(tensor.shape) == 2 and tensor.dtype != "U8"
    }
    for tensor in adapter:
        module, found, _ = tensor.name.removeprefix("base_model.model.").partition(".lora_A.")
        here, there = sides.get(module), tensor.shape[-1]
        if found and here is not None and there not in here:
            named = _config(folder).get("base_model_name_or_path")
            return (
                f"{experiment.trained!r} does not fit {experiment.base_model!r}: {module} takes {there} values there "
                f"and {here[-1]} here; the adapter names {named!r} as its base"
            )
    return None


def given_digest(experiment: Experiment) -> str:
    """Return the digest of the adapter that the experiment was given."""
    return adapter_digest(given_folder(experiment, str(experiment.trained), "trained.adapter"))


def take(request: TrainingRequest) -> TrainingResult:
    """Copy the given adapter into the request's folder; the result's notes say what was left behind."""
    experiment = request.experiment
    folder = given_folder(experiment, str(experiment.trained), "trained.adapter")
    notes = copy_adapter(folder, request.folder, experiment, "trained.adapter")
    taken = f"nothing was trained here: the adapter was given as {experiment.trained}"
    return TrainingResult(
        request.folder, steps=0, seconds=0.0, final_loss=None, log=(), notes=(taken, *notes)
    )


def copy_adapter(folder: Path, into: Path, experiment: Experiment, key: str) -> tuple[str, ...]:
    """Copy an adapter's files and return notes; TrainingError when it is of another method than the experiment's."""
    whole = is_whole_model(folder)
    _check_method(folder, experiment, key, whole=whole)
    names = (WHOLE_MODEL, MODEL_CONFIG) if whole else (ADAPTER, ADAPTER_CONFIG)
    into.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(folder / name, into / name)
    others = sorted(file.name for file in folder.iterdir() if file.name not in names)
    pickles = [name for name in others if name.endswith(PICKLES)]
    notes = []
    if pickles:
        notes.append(
            f"left behind, unopened: {listed(pickles)} (pickles, which can run code when they are loaded)"
        )
    if not whole and (other := _other_base(folder, experiment)):
        notes.append(other)
    return tuple(notes)


def _check_method(folder: Path, experiment: Experiment, key: str, *, whole: bool) -> None:
    method = experiment.peft_method
    if whole != (method == "full"):
        found = (
            "a whole model: write peft_method: full"
            if whole
            else "an adapter: write the method that trained it"
        )
        raise TrainingError(f"{key}: peft_method is {method}, and {str(folder)!r} holds {found}")
    if missing := missing_file(folder, method):
        raise TrainingError(f"{key}: {str(folder)!r} has no {missing}")
    if whole:
        return
    config = _config(folder)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise TrainingError(
            f"{key}: an adapter of type {kind!r}; LoRA adapters (DoRA, PiSSA, OLoRA) can be judged"
        )
    if bool(config.get("use_dora")) != (method == "dora"):
        wanted = "dora" if config.get("use_dora") else "lora, or qlora where its base was held in 4 bits"
        raise TrainingError(f"{key}: peft_method is {method}, and the adapter says otherwise: write {wanted}")


def _other_base(folder: Path, experiment: Experiment) -> str | None:
    """Say when the adapter names another base; a path of another machine is compared by its last part."""
    named = str(_config(folder).get("base_model_name_or_path") or "")
    if (
        not named
        or named.rstrip("/").rpartition("/")[2] == experiment.base_model.rstrip("/").rpartition("/")[2]
    ):
        return None
    return f"the adapter says that it was trained on {named}; it is judged on {experiment.base_model}"


def _config(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _without_adapter(folder: Path) -> str:
    """Say why a folder holds no adapter, and what to name or to do instead."""
    below = sorted(
        (part.parent for part in folder.glob(f"*/{ADAPTER}")),
        key=lambda part: part.stat().st_mtime,
        reverse=True,
    )
    if below:
        return f"holds no adapter itself; name a folder in it: {listed([part.name for part in below])}"
    if (folder / "adapter_model.bin").is_file():
        return (
            "holds its adapter as a pickle (adapter_model.bin), which can run code when it is loaded: save it again "
            "where it was trained, model.save_pretrained(FOLDER) writes safetensors"
        )
    found = listed(sorted(file.name for file in folder.iterdir())) or "nothing"
    return f"holds no adapter ({ADAPTER}) and no model ({WHOLE_MODEL}); found: {found}"
