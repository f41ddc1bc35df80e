from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pytest_finetune.store import Store

Write = Callable[[Path], None]


def tensor_file(**tensors: tuple[str, list[int], bytes]) -> bytes:
    """A safetensors file, spelled out by hand from (dtype, shape, bytes)."""
    header, end = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values())


def floats(*values: float) -> tuple[str, list[int], bytes]:
    return "F32", [len(values)], struct.pack(f"<{len(values)}f", *values)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def adapter() -> Callable[..., Write]:
    """Make what `commit` calls: it writes a small adapter with these numbers, and further files."""

    def make(*values: float, files: Mapping[str, str] | None = None) -> Write:
        def write(folder: Path) -> None:
            weights = tensor_file(
                **{"layer.lora_A.weight": floats(1.0), "layer.lora_B.weight": floats(*values)}
            )
            (folder / "adapter_model.safetensors").write_bytes(weights)
            (folder / "adapter_config.json").write_text('{"r": 1, "target_modules": ["q_proj"]}')
            for name, text in (files or {}).items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(text)

        return write

    return make
