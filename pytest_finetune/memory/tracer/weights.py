"""Hold the tensors of a base's files against its model, by transformers' own loading on the meta device.

No weight is read: each tensor is one of the name, dtype and shape that the header of its file gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from pytest_finetune.fingerprint import Match, weight_tensors
from pytest_finetune.memory.tracer.architectures import auto_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def match_of(model: PreTrainedModel, info: dict[str, Any]) -> Match:
    """Return what a loading reported (`output_loading_info`), with the model that it was about."""
    text = model.config.get_text_config()
    return Match(
        tensors=len(model.state_dict()),
        modules={name for name, _ in model.named_modules() if name},
        missing=sorted(info["missing_keys"]),
        unexpected=sorted(info["unexpected_keys"]),
        mismatched=[
            (name, tuple(file), tuple(wanted)) for name, file, wanted in sorted(info["mismatched_keys"])
        ],
        further_layers=int(getattr(text, "num_nextn_predict_layers", 0) or 0),
    )


def matched(folder: Path) -> Match | None:
    """Return how a base's files match its model; None for an architecture that needs code of its own."""
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tensors = {
        name: torch.empty(tensor.shape, dtype=_DTYPES.get(tensor.dtype, torch.float32), device="meta")
        for name, tensor in weight_tensors(folder).items()
    }
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    kind: Any = auto_class(config)._model_mapping.get(type(config), None)
    if kind is None or isinstance(kind, tuple):
        return None
    if kind.config_class is config.sub_configs.get("text_config"):
        config = config.get_text_config()
    model, info = kind.from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        device_map={"": "meta"},
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    return match_of(model, info)


def trouble_with(folder: Path) -> str:
    """Say why a base is not the model that was named; nothing where it is, or where a trace says better why not."""
    try:
        found = matched(folder)
    except Exception:  # what cannot be built cannot be traced either
        return ""
    return (found and found.trouble) or ""
