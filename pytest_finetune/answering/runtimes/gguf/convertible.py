"""A model and an adapter as llama.cpp's converters can take them.

They go by the name of a model's class, which some configurations leave out, and have one scale for all modules of an
adapter.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.memory.tracer.architectures import auto_class
from pytest_finetune.training.artifact import ADAPTER_CONFIG
from pytest_finetune.yamlfile import Json

_CONFIG: Final = "config.json"
_NOT_HELD: Final = {
    "use_dora": "DoRA magnitudes",
    "modules_to_save": "modules that were trained whole",
    "trainable_token_indices": "tokens that were trained",
    "lora_bias": "biases",
}


@contextmanager
def named(model: Path) -> Iterator[Path]:
    """Give a folder with the same model whose configuration names its class, as transformers finds it by its type."""
    config = json.loads((model / _CONFIG).read_bytes())
    name = None if config.get("architectures") else _class_of(model)
    if name is None:
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="finetune-model-") as place:
        folder = Path(place, model.name)  # the converter writes the folder's name into the file
        folder.mkdir()
        for file in model.iterdir():
            if file.name != _CONFIG:
                (folder / file.name).symlink_to(file.resolve())
        (folder / _CONFIG).write_text(json.dumps({**config, "architectures": [name]}), encoding="utf-8")
        yield folder


def _class_of(model: Path) -> str | None:
    """Return the name of a model's class; None where transformers knows none, which the converter tells."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, local_files_only=True)
        return str(auto_class(config)._model_mapping[type(config)].__name__)
    except (OSError, ValueError, KeyError):
        return None


@contextmanager
def scaled(adapter: Path) -> Iterator[Path]:
    """Give a folder with the same adapter whose scale is 1: B times what PEFT multiplies it with, in float32.

    A GGUF adapter is scaled by alpha / rank. Rank-stabilised ones and those with a pattern of alphas are scaled
    otherwise, and the server would not know. Raises AnsweringError for what an adapter's file cannot hold.
    """
    from safetensors.torch import load_file, save_file

    config = json.loads((adapter / ADAPTER_CONFIG).read_bytes())
    lost = [what for name, what in _NOT_HELD.items() if config.get(name)]
    if lost or config.get("bias", "none") != "none":
        raise AnsweringError(
            f"a GGUF adapter holds no {' and no '.join(lost) or 'biases'}, so {adapter.name[:12]} would answer "
            "without them: leave `adapter: lora` out"
        )
    tensors = load_file(adapter / "adapter_model.safetensors", device="cpu")
    for name, tensor in tensors.items():
        module, found, part = name.partition(".lora_")
        if found and part.startswith(("B", "embedding_B")):
            tensors[name] = (tensor.float() * _scale(config, module, tensor.shape[1])).contiguous()
    with tempfile.TemporaryDirectory(prefix="finetune-adapter-") as place:
        folder = Path(place)
        save_file(tensors, folder / "adapter_model.safetensors")
        # An alpha of 0 is the GGUF's word for a scale of 1.
        (folder / ADAPTER_CONFIG).write_text(json.dumps({**config, "lora_alpha": 0}), encoding="utf-8")
        yield folder


def _scale(config: Json, module: str, rank: int) -> float:
    """Return what PEFT multiplies an adapter's module with."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(patterns, module), config["lora_alpha"]) or 0)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
