from __future__ import annotations

import json
from pathlib import Path

import pytest


def tensors(value: bytes = b"\x00\x00\x80\x3f") -> bytes:
    """A safetensors file with one float."""
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [len(value) // 4], "data_offsets": [0, len(value)]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + value


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder that looks like a small model."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(tensors())
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "_name_or_path": "/home/a"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ x }}", "model_max_length": 1e30})
    )
    (folder / "README.md").write_text("A card.")
    return folder
