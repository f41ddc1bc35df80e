from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pytest_finetune.store import Store, open_store

Write = Callable[[Path], None]
Open = Callable[..., Store]


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


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place on each of the file systems."""
    if request.param == "file":
        return f"file://{tmp_path}/shared"
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/store"
    request.getfixturevalue("s3")
    import s3fs

    name = f"b{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/team/store"


@pytest.fixture
def machine(url: str, tmp_path: Path) -> Open:
    """Open the store as a machine with this name would, with a cache of its own."""

    def opened(name: str, *, readonly: bool = False) -> Store:
        return open_store(url, tmp_path / name, readonly=readonly)

    return opened
