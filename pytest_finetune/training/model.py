"""Load a base model and its tokenizer: one place, so that training and answering see the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from pytest_finetune.training.base import BaseSource, check_folder
from pytest_finetune.training.request import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def compute_dtype(device: str) -> torch.dtype:
    """Return the dtype to compute in: float32, but on CUDA bfloat16 where the card has it, else float16."""
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load_tokenizer(source: BaseSource) -> PreTrainedTokenizerBase:
    """Return the tokenizer, able to pad; TrainingError when it has no stop token."""
    tokenizer = _from_pretrained(AutoTokenizer, source)
    if tokenizer.eos_token is None:
        raise TrainingError(
            f"base model {source.name!r}: its tokenizer names no stop token, so answers could not end\n"
            "  set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(source: BaseSource, device: str) -> PreTrainedModel:
    """Return the base model on `device` in eval mode, quantised as `source` says."""
    dtype = compute_dtype(device) if source.dtype is None else getattr(torch, source.dtype)
    model = _from_pretrained(
        AutoModelForCausalLM,
        source,
        dtype=dtype,
        use_safetensors=True,
        attn_implementation="sdpa",
        quantization_config=_quantization(source.quantization, dtype),
        device_map=None if device == "cpu" else {"": _indexed(device)},
    )
    _keep_autograd(model)
    return model.eval()


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


def _from_pretrained(kind: Any, source: BaseSource, **settings: object) -> Any:
    if source.local:
        check_folder(Path(source.name))
        settings["local_files_only"] = True
    try:
        return kind.from_pretrained(
            source.name,
            revision=source.revision or "main",
            trust_remote_code=source.trust_remote_code,
            **settings,
        )
    except (OSError, ValueError, ImportError) as error:
        raise TrainingError(_cannot_load(source, error)) from error


def _cannot_load(source: BaseSource, error: Exception) -> str:
    reason = " ".join(str(error).split())
    hint = ""
    if "trust_remote_code" in reason:
        hint = "\n  it needs code from its repository: read that code, then write trust_remote_code: true"
    return f"base model {source.name!r} cannot be loaded: {reason[:600]}{hint}"


def _quantization(name: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    match name:
        case "nf4":
            return BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        case "int8":
            return BitsAndBytesConfig(load_in_8bit=True)
        case _:
            return None


def _keep_autograd(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    It does so in place at the first forward in eval mode; training forwards then take a path without
    autograd, and the adapter's gradients are wrong while the loss looks right.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 (mypy takes it for a submodule)
