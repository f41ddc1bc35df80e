"""Load a base model and its tokenizer: one place, so that training and answering see the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import AutoConfig, AutoTokenizer

from pytest_finetune.memory.tracer.architectures import auto_class
from pytest_finetune.memory.tracer.weights import match_of
from pytest_finetune.training.base import BaseSource
from pytest_finetune.training.loading import (
    from_pretrained,
    heard,
    quantization_settings,
    stored_quantization,
    with_attention,
)
from pytest_finetune.training.request import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_finetune.fingerprint import OwnQuantization


def compute_dtype(device: str) -> torch.dtype:
    """Return the dtype to compute in: float32, but on CUDA bfloat16 where the card has it, else float16."""
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class LoadedBase(NamedTuple):
    """A base model, and what the reader of the record should know of its loading."""

    model: PreTrainedModel
    notes: tuple[str, ...]


def load_tokenizer(source: BaseSource) -> PreTrainedTokenizerBase:
    """Return the tokenizer, able to pad; TrainingError when it has no stop token."""
    tokenizer = from_pretrained(AutoTokenizer, source)
    if tokenizer.eos_token is None:
        raise TrainingError(
            f"base model {source.name!r}: its tokenizer names no stop token, so answers could not end\n"
            "  set eos_token in its tokenizer_config.json"
        )
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise TrainingError(
            f"base model {source.name!r}: its tokenizer knows no words, since the file of its vocabulary is not there "
            "(tokenizer.json, tokenizer.model or vocab.json), and transformers makes an empty one of the rest\n"
            "  copy the tokenizer files of the model that it comes from into the folder"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(source: BaseSource, device: str) -> PreTrainedModel:
    """Return the base model on `device` in eval mode, quantised as `source` says."""
    return load_base(source, device).model


def load_base(source: BaseSource, device: str, *, shared: bool = False) -> LoadedBase:
    """Return the base model as `load_model` does; TrainingError unless it is the one that its files hold.

    One that is `shared` out later stays in the machine's memory until then, for no card need hold all of it.
    """
    dtype = compute_dtype(device) if source.dtype is None else getattr(torch, source.dtype)
    own = stored_quantization(source)
    with heard() as said:
        model, info = with_attention(
            auto_class(from_pretrained(AutoConfig, source)),
            source,
            dtype=dtype,
            use_safetensors=True,
            device_map=None if shared or device == "cpu" else {"": _indexed(device)},
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # what does not match is refused below, by name
            **quantization_settings(source, own, dtype),
        )
    match = match_of(model, info)
    trouble = match.trouble or _not_as_named(model, own)
    if trouble:
        raise TrainingError(f"base model {source.name!r}: {trouble}")
    _keep_autograd(model)
    return LoadedBase(
        model.eval(), (*match.notes, *(f"transformers on loading the base: {one}" for one in said))
    )


def _not_as_named(model: PreTrainedModel, own: OwnQuantization | None) -> str | None:
    """Say in what a model whose tensors match is still another one than its files hold."""
    if own and own.dequantised and getattr(model.config, "quantization_config", None) is not None:
        return (
            f"it is stored in {own.name}, which the installed transformers does not read into plain weights: upgrade "
            "it, or name the model that the base was made from"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        return (
            "its repository holds an adapter beside the model (adapter_config.json), and transformers put it on the "
            "base: name a repository or a folder without one"
        )
    return None


def check_trainable(source: BaseSource, method: str) -> None:
    """Raise TrainingError where `method` cannot train on the base as it is stored."""
    own = stored_quantization(source)
    trouble = own and own.untrainable(source.quantization, method)
    if trouble:
        raise TrainingError(f"base model {source.name!r} {trouble}")


def _indexed(device: str) -> str:
    """Return ``cuda`` with the number of the current card: Trainer compares devices by name."""
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return every id that ends an answer: the tokenizer's and those of the model's generation settings."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(int(stop) for stop in (*several, tokenizer.eos_token_id) if stop is not None)


def context_tokens(model: PreTrainedModel) -> int | None:
    """Return how many tokens the model can attend to, None when its configuration does not say."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None


def embeddings(model: PreTrainedModel) -> int | None:
    """Return for how many token ids the model has an embedding, None when it does not say."""
    layer = model.get_input_embeddings()
    return int(layer.weight.shape[0]) if layer is not None else None


def pad_inside(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Pad with the stop token where the tokenizer's pad token has no embedding: nobody reads what is padded."""
    rows = embeddings(model)
    if rows is not None and tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.eos_token


def _keep_autograd(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    It does so in place at the first forward in eval mode; training forwards then take a path without
    autograd, and the adapter's gradients are wrong while the loss looks right.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 (mypy takes it for a submodule)
