"""A base model's folder: can it be loaded safely, is it whole, and which files are its weights.

Everything is told by names, sizes and headers, so that it is known before any weight is read.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pytest_finetune.errors import FinetuneError
from pytest_finetune.fingerprint.quantization import own_quantization
from pytest_finetune.safetensors_check import Tensor, TensorFileError, is_pointer, read_header
from pytest_finetune.wording import counted
from pytest_finetune.yamlfile import Json

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"

_PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
_READ: Final = frozenset({".safetensors", ".json", ".model", ".txt", ".jinja"})
_OTHER_WEIGHTS: Final = frozenset({".gguf", ".ggml", ".onnx", ".h5", ".msgpack", ".npz"})
_ADAPTER: Final = ("adapter_config.json", "adapter_model.safetensors")
_SHARD: Final = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")

# What belongs to a quantised weight and to no other.
_SCALES: Final = (
    ".weight_scale_inv",
    ".weight_scale",
    ".weight_packed",
    ".qweight",
    ".qzeros",
    ".weight.absmax",
    ".weight.quant_map",
    ".SCB",
)

# What a wrapper puts before every name when its own state is saved instead of the model's.
_WRAPPERS: Final = {
    "base_model.model.": "PEFT",
    "module.": "DataParallel",
    "_orig_mod.": "torch.compile",
    "_forward_module.": "a training library",
    "_fsdp_wrapped_module.": "FSDP",
}


class BaseModelError(FinetuneError, ValueError):
    """The base model cannot be used; the message says what was found and what to do."""


def weight_files(folder: Path) -> list[str]:
    """Return the names of the files that transformers reads the weights from.

    Raises BaseModelError when the folder holds no model in safetensors, or not a whole one.
    """
    files = top_files(folder)
    if "config.json" not in files:
        raise BaseModelError(_no_config(folder, files))
    found = [name for name in files if name.endswith(".safetensors")]
    if not found:
        raise BaseModelError(_no_weights(folder, files))
    named = _indexed(folder) if INDEX in files else set()
    missing = sorted(named - set(found))
    if missing:
        raise BaseModelError(
            f"base model: {str(folder)!r} lacks {', '.join(missing)}, which its index names; "
            "download it again"
        )
    _refuse_adapter(folder, files)
    if WEIGHTS in found and named - {WEIGHTS}:
        raise BaseModelError(
            f"base model: {str(folder)!r} holds two sets of weights, {WEIGHTS} and the {len(named)} files of {INDEX}: "
            f"move one of them out (transformers would read {WEIGHTS})"
        )
    if named:
        return sorted(named)
    return [_explicit(folder, found)]


def weight_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of the weights by name; BaseModelError when a file is not whole."""
    found: dict[str, Tensor] = {}
    for name in weight_files(folder):
        try:
            tensors = read_header(folder / name)
        except TensorFileError as error:
            raise BaseModelError(f"base model: {name} in {str(folder)!r} cannot be used: {error}") from None
        found |= {tensor.name: tensor for tensor in tensors}
    return found


def check_model(folder: Path) -> None:
    """Raise BaseModelError unless the folder holds a whole model under its own names, and a tokenizer."""
    names = list(weight_tensors(folder))
    config = read_json(folder, "config.json")
    trouble = wrapped(names) or _scales(names, config if isinstance(config, dict) else {})
    if trouble:
        raise BaseModelError(f"base model: {str(folder)!r} {trouble}")
    _check_tokenizer(folder)


def wrapped(names: Sequence[str]) -> str | None:
    """Say what is amiss when tensors bear the names of a wrapper or an adapter instead of a model's."""
    adapters = [name for name in names if ".lora_" in name or ".base_layer." in name]
    if adapters:
        return (
            f"holds {counted(len(adapters), 'tensor')} of an adapter among its weights ({adapters[0]}), which "
            "transformers leaves out: merge it first (merge_and_unload), and save the model then"
        )
    for prefix, wrapper in _WRAPPERS.items():
        those = [name for name in names if name.startswith(prefix)]
        if those:
            return (
                f"was saved from a wrapper ({wrapper}): {len(those)} of {counted(len(names), 'tensor')} begin with "
                f"{prefix!r} ({those[0]}), and transformers would fill the model with random numbers: save the model "
                f"inside the wrapper, or write the file again without {prefix!r}"
            )
    return None


def top_files(folder: Path) -> list[str]:
    """Return the names of the files in a base model's folder."""
    if not folder.is_dir():
        raise BaseModelError(f"base model: {str(folder)!r} is not a folder")
    for entry in folder.iterdir():
        if entry.suffix in _READ and entry.is_symlink() and not entry.exists():
            raise BaseModelError(
                f"base model: {entry.name} in {str(folder)!r} is a link to a file that is not there "
                f"({entry.readlink()}): download it again"
            )
    return sorted(entry.name for entry in folder.iterdir() if entry.is_file())


def read_json(folder: Path, name: str) -> object:
    """Return the content of a JSON file of the folder. Raises BaseModelError."""
    file = folder / name
    try:
        content = file.read_bytes()
        if content.startswith(codecs.BOM_UTF8):
            raise BaseModelError(
                f"base model: {name} in {str(folder)!r} begins with a byte order mark, which transformers refuses: "
                "save it as UTF-8 without one"
            )
        return json.loads(content)
    except BaseModelError:
        raise
    except (ValueError, RecursionError) as error:
        if is_pointer(file):
            why = "is a Git LFS pointer, not the file (run `git lfs pull`)"
            raise BaseModelError(f"base model: {name} in {str(folder)!r} {why}") from None
        message = f"base model: {name} in {str(folder)!r} is not readable JSON ({error})"
        raise BaseModelError(message) from None


def holds_weights(folder: Path) -> bool:
    """Tell whether the folder holds weights in any format."""
    suffixes = {".safetensors"} | _PICKLES | _OTHER_WEIGHTS
    return any(Path(name).suffix in suffixes for name in top_files(folder))


def has_tokenizer(folder: Path) -> bool:
    """Tell whether the folder holds a file of a tokenizer."""
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    return any((folder / file).is_file() for file in files)


def _scales(names: Sequence[str], config: Json) -> str | None:
    """Say which tensors are scales of a quantisation that the configuration does not name."""
    scales = [name for name in names if name.endswith(_SCALES)]
    if not scales or own_quantization(config) is not None:
        return None
    return (
        f"holds {counted(len(scales), 'tensor')} of a quantisation ({scales[0]}), and its config.json names none "
        "(quantization_config): the weights would be read without their scales; take the config.json of the same model"
    )


def _check_tokenizer(folder: Path) -> None:
    if not has_tokenizer(folder):
        raise BaseModelError(
            f"base model: {str(folder)!r} has no tokenizer (tokenizer.json, tokenizer_config.json or tokenizer.model); "
            "copy the tokenizer files of the model that it comes from into the folder"
        )
    for name in ("tokenizer.json", "tokenizer.model"):
        if is_pointer(folder / name):
            raise BaseModelError(
                f"base model: {name} in {str(folder)!r} is a Git LFS pointer, not the file (run `git lfs pull`)"
            )


def indexed_tensors(folder: Path) -> set[str]:
    """Return the names of the tensors that the index of a model in several files promises; none without one."""
    return set(_shards(folder)) if (folder / INDEX).is_file() else set()


def _indexed(folder: Path) -> set[str]:
    return {str(name) for name in _shards(folder).values()}


def _shards(folder: Path) -> Json:
    index = read_json(folder, INDEX)
    shard_names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shard_names, dict):
        raise BaseModelError(f"base model: {INDEX} in {str(folder)!r} has no weight_map")
    return shard_names


def _explicit(folder: Path, found: Sequence[str]) -> str:
    """Return the one file of the weights: the one that the configuration names, or the one of the usual name."""
    config = read_json(folder, "config.json")
    explicit = config.get("transformers_weights") if isinstance(config, dict) else None
    wanted = str(explicit or WEIGHTS)
    if wanted in found:
        return wanted
    if any(_SHARD.search(name) for name in found):
        raise BaseModelError(
            f"base model: {str(folder)!r} holds {counted(len(found), 'part')} of a model ({found[0]}) and no {INDEX}, "
            "which says what lies where; download it again"
        )
    raise BaseModelError(
        f"base model: {str(folder)!r} has no {wanted}, which transformers reads (found: {', '.join(found[:4])}); "
        "give the file that holds the weights this name"
    )


def _refuse_adapter(folder: Path, files: Sequence[str]) -> None:
    left = [name for name in _ADAPTER if name in files]
    if "adapter_config.json" in left:
        raise BaseModelError(
            f"base model: {str(folder)!r} holds a model and an adapter ({', '.join(left)}), and transformers would put "
            f"the adapter on the base without a word: move {'both files' if len(left) > 1 else 'it'} into a folder of "
            "their own; what was trained by this project before can be an arm (arms: {name: {adapter: KEY}})"
        )


def _no_config(folder: Path, files: Sequence[str]) -> str:
    if "adapter_config.json" in files:
        return (
            f"base model: {str(folder)!r} holds an adapter (adapter_config.json), not a model; "
            "base_model must name the model that the adapter was trained on, or a merged one"
        )
    if any(Path(name).suffix in _OTHER_WEIGHTS for name in files):
        return _no_weights(folder, files)
    found = ", ".join(files[:8]) or "nothing"
    return f"base model: {str(folder)!r} has no config.json (found: {found})"


def _no_weights(folder: Path, files: Sequence[str]) -> str:
    pickles = [name for name in files if Path(name).suffix in _PICKLES]
    if pickles:
        return (
            f"base model: {str(folder)!r} has pickle weights only ({', '.join(pickles[:4])}); a pickle "
            "can run any code when it is loaded. Convert it once, where you trust it: "
            "model.save_pretrained(folder, safe_serialization=True)"
        )
    others = [name for name in files if Path(name).suffix in _OTHER_WEIGHTS]
    found = f" (found {', '.join(others[:4])}, which cannot be trained)" if others else ""
    remedy = "; take the model in safetensors that it was made from" if others else ""
    return f"base model: {str(folder)!r} has no weights: no *.safetensors file in it{found}{remedy}"
