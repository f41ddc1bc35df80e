"""A random adapter of a trained one's shapes and norms."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pytest_finetune.answering.null_adapter import write_null_adapter

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


def test_each_module_is_changed_by_another_matrix_of_the_same_norm(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(3)
    trained = {
        f"{LAYER}.lora_A.weight": torch.randn(4, 12, generator=draw),
        f"{LAYER}.lora_B.weight": 0.01 * torch.randn(8, 4, generator=draw),
        "base_model.model.embed.lora_embedding_A": torch.randn(4, 30, generator=draw).to(torch.bfloat16),
        "base_model.model.embed.lora_embedding_B": torch.zeros(8, 4).to(torch.bfloat16),
        f"{LAYER}.lora_B.bias": torch.randn(8, generator=draw),
    }
    adapter, folder, again = (tmp_path / name for name in ("adapter", "null", "again"))
    for made in (adapter, folder, again):
        made.mkdir()
    save_file(trained, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}), encoding="utf-8")
    write_null_adapter(adapter, folder)
    null = load_file(folder / "adapter_model.safetensors")
    assert {name: (one.shape, one.dtype) for name, one in null.items()} == {
        name: (one.shape, one.dtype) for name, one in trained.items()
    }
    assert json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 4

    def change(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return tensors[f"{LAYER}.lora_B.weight"] @ tensors[f"{LAYER}.lora_A.weight"]

    assert torch.isclose(change(null).norm(), change(trained).norm(), rtol=1e-4)
    assert not torch.allclose(change(null), change(trained), atol=1e-3)
    assert torch.isclose(null[f"{LAYER}.lora_B.bias"].norm(), trained[f"{LAYER}.lora_B.bias"].norm())
    assert not null["base_model.model.embed.lora_embedding_B"].any(), "what was not trained is not changed"
    write_null_adapter(adapter, again)
    assert all(
        torch.equal(null[name], one) for name, one in load_file(again / "adapter_model.safetensors").items()
    )
