"""A base whose files are not those of its configuration is known by names and shapes, before any library is loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.fingerprint import match_of_layers

LAYER = {"self_attn.q_proj.weight": (4, 4), "mlp.down_proj.weight": (4, 8), "input_layernorm.weight": (4,)}
WHOLE = {
    "model.embed_tokens.weight": (10, 4),
    **{f"model.layers.{number}.{part}": shape for number in range(4) for part, shape in LAYER.items()},
    "model.norm.weight": (4,),
    "lm_head.weight": (10, 4),
}
CONFIG = {"model_type": "llama", "num_hidden_layers": 4, "vocab_size": 10, "tie_word_embeddings": False}
Q1 = "model.layers.1.self_attn.q_proj.weight"


def write(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write tensors of zeros."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def trouble(folder: Path, shapes: Mapping[str, tuple[int, ...]], **config: Any) -> str | None:
    """Return what is said of a base with these tensors."""
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    write(folder / "model.safetensors", shapes)
    match = match_of_layers(folder)
    return match.trouble if match else None


def without(*names: str) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in WHOLE.items() if name not in names}


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (without(Q1), f"1 of 15 tensors are not in the files ({Q1}), and transformers would fill them with random"),
        (without("model.norm.weight"), "1 of 15 tensors are not in the files (model.norm.weight)"),
        (without("lm_head.weight"), "1 of 15 tensors are not in the files (lm_head.weight)"),
        (
            {**without("lm_head.weight"), "score.weight": (3, 4)},
            "(the files hold score.weight instead): take config.json and weights of the same model",
        ),
        (
            {name: shape for name, shape in WHOLE.items() if not name.startswith("model.layers.3.")},
            "3 of 15 tensors are not in the files (model.layers.3.input_layernorm.weight, ",
        ),
        (
            {**WHOLE, "model.layers.2.self_attn.q_proj.bias": (4,)},
            "no place for 1 tensor of the files (model.layers.2.self_attn.q_proj.bias), which would be left out",
        ),
        (
            {**WHOLE, **{f"model.layers.4.{part}": shape for part, shape in LAYER.items()}},
            "no place for 3 tensors of the files (model.layers.4.input_layernorm.weight, ",
        ),
        (
            {**WHOLE, Q1: (8, 4)},
            f"1 of 15 tensors have another shape in the files than in the model of its config.json ({Q1}: [8, 4] and "
            "[4, 4])",
        ),
        (
            {**WHOLE, "model.embed_tokens.weight": (12, 4)},
            "(model.embed_tokens.weight: [12, 4] and [10, 4])",
        ),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_named(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], said: str
) -> None:
    told = trouble(tmp_path, shapes)
    assert told is not None
    assert said in told


@pytest.mark.parametrize(
    ("shapes", "config"),
    [
        (WHOLE, {}),
        ({name.removeprefix("model."): shape for name, shape in WHOLE.items()}, {}),
        (without("lm_head.weight"), {"tie_word_embeddings": True}),
        ({**WHOLE, "model.layers.0.self_attn.rotary_emb.inv_freq": (2,)}, {}),  # computed now
        (without(Q1), {"model_type": "qwen3_next"}),  # its layers are of two kinds
        (without(Q1), {"quantization_config": {"quant_method": "fp8"}}),  # keeps some layers as they were
        ({"vision.layers.0.weight": (4,), **without(Q1)}, {}),  # two lists of layers
        ({"weight": (2,)}, {}),
    ],
)
def test_what_names_do_not_tell_is_not_said(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], config: dict[str, Any]
) -> None:
    assert trouble(tmp_path, shapes, **config) is None


def test_a_tensor_that_the_index_promises_is_missing_in_any_architecture(tmp_path: Path) -> None:
    shard = "model-00001-of-00001.safetensors"
    index = {"weight_map": dict.fromkeys([*WHOLE, "model.layers.0.rotary_emb.inv_freq"], shard)}
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_next"}')
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    write(tmp_path / shard, WHOLE)
    assert match_of_layers(tmp_path) is None
    write(tmp_path / shard, without(Q1))
    match = match_of_layers(tmp_path)
    assert match is not None
    assert str(match.trouble).startswith(f"1 of 16 tensors are not in the files ({Q1}), ")
