"""Make one model of a base and its adapter: dequantise, then merge, then take the dtype that is shipped."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes.attach import attach, detach
from pytest_finetune.answering.runtimes.proof import (
    Proof,
    RowsOf,
    Tokens,
    any_rows,
    check_tokens,
    logits_of,
    prove,
)
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.safetensors_check import nonfinite, read_header
from pytest_finetune.training.surroundings import surroundings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pytest_finetune.training.base import BaseSource

# safetensors' names for the dtypes that a model is shipped in.
_DTYPES: Final = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
# What lies beside the weights and is not the tokenizer's or the template's.
_NOT_COPIED: Final = ("config.json", "model.safetensors", "README.md", "LICENSE", ".gitattributes")
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")


def base_dtype(folder: Path) -> str:
    """Return the dtype of most weights in a model's folder; of a quantised one, of those that are not; else float32."""
    counts: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for tensor in read_header(file):
            if tensor.dtype in _DTYPES:
                counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.stop - tensor.start
    return _DTYPES[max(counts, key=lambda name: counts[name])] if counts else "float32"


def merge(
    source: BaseSource,
    folder: Path,
    adapter: Path | None,
    into: Path,
    dtype: str,
    device: str,
    rows: RowsOf = any_rows,
) -> Proof:
    """Write the model of `adapter` on the base in `folder` into an empty folder; None writes the base alone.

    The base is loaded as it was trained on, dequantised and merged in float32 on the CPU, and only then rounded to
    `dtype`: merging into rounded or into unquantised weights gives another model than the one that was judged.
    Tokenizer, template and generation settings are copied byte for byte. What was written is loaded again, and returned
    is the proof on `rows` that it answers as the adapter on its base. Raises AnsweringError.
    """
    import torch

    from pytest_finetune.training.model import load_model, load_tokenizer

    with surroundings(offline=source.local):
        tokens = rows(load_tokenizer(source))
        model = load_model(source, device)
        computed = str(model.dtype).removeprefix("torch.")
        judged, model = _judged(model, adapter, tokens)
        _check_transposed(model)
        if source.quantization != "none":
            model = model.dequantize()
        model = model.to(device="cpu", dtype=torch.float32)
        if adapter is not None:
            model = _merged(model, adapter)
        model = model.to(getattr(torch, dtype))
        _without_traces(model, dtype)
        model.save_pretrained(str(into), safe_serialization=True)
        del model
        _copy_side_files(folder, into)
        _check_finite(into, dtype)
        again = replace(source, name=str(into), revision=None, quantization="none", dtype=dtype)
        check_tokens(tokens, rows(load_tokenizer(again)))
        written = logits_of(load_model(again, device), tokens)
    return prove(judged, written, (computed, dtype), source.quantization)


def _judged(
    model: PreTrainedModel, adapter: Path | None, tokens: Tokens
) -> tuple[list[Tensor], PreTrainedModel]:
    """Return the logits of the adapter on its base, and the base without it."""
    if adapter is None:
        return logits_of(model, tokens), model
    wrapped = attach(model, adapter)
    return logits_of(wrapped, tokens), detach(wrapped)


def _check_transposed(model: PreTrainedModel) -> None:
    """Raise AnsweringError for quantised weights that would be written in another shape than they are read in."""
    for name, module in model.named_modules():
        if getattr(module, "source_cls", None) is not None and module.source_cls.__name__ == "Conv1D":
            raise AnsweringError(
                f"the quantised base cannot be merged into: {name} and its like are transposed modules (Conv1D), and "
                "their dequantised weights would be written the wrong way round\n"
                "  take quantization: none for a model that is to be merged"
            )


def _merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    wrapped = attach(model, adapter)
    try:
        return wrapped.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise AnsweringError(f"adapter {str(adapter)!r} cannot be merged: {error}") from None


def _without_traces(model: PreTrainedModel, dtype: str) -> None:
    """Let the configuration speak of the model as it is written, not of how it was loaded."""
    import torch

    config = model.config
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    config.dtype = getattr(torch, dtype)


def _copy_side_files(folder: Path, into: Path) -> None:
    for file in sorted(folder.iterdir()):
        weights = file.suffix in _WEIGHTS or file.name.endswith(".index.json")
        if file.is_file() and not weights and file.name not in _NOT_COPIED:
            shutil.copyfile(file, into / file.name)


def _check_finite(folder: Path, dtype: str) -> None:
    for file in sorted(folder.glob("*.safetensors")):
        broken = nonfinite(file)
        if broken:
            raise AnsweringError(
                f"the merged model holds numbers that are not finite in {dtype}, in {len(broken)} of its tensors "
                f"({broken[0]}): not kept\n  take another dtype for this runtime: {{merged: {{dtype: bfloat16}}}}"
            )
