from __future__ import annotations

import contextlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_finetune import safetensors_check
from pytest_finetune.safetensors_check import TensorFileError, delta_nonzero, nonfinite, read_header

WIDTHS = {"F64": 8, "F32": 4, "C64": 8, "F16": 2, "BF16": 2}


def tensor_file(**tensors: tuple[str, list[int], bytes]) -> bytes:
    header, end = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values())


def is_finite(dtype: str, item: bytes) -> bool:
    """Read one item the slow way."""
    if dtype == "BF16":
        return is_finite("F32", b"\0\0" + item)
    if dtype == "C64":
        return is_finite("F32", item[:4]) and is_finite("F32", item[4:])
    (value,) = struct.unpack({"F64": "<d", "F32": "<f", "F16": "<e"}[dtype], item)
    return math.isfinite(value)


EDGES = {
    "F32": [0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F000000, 0x00800000],
    "F16": [0x7C00, 0xFC00, 0x7C01, 0x7BFF, 0xFBFF, 0x7FFF],
    "BF16": [0x7F80, 0xFF80, 0x7F81, 0x7F7F, 0xFF7F, 0x7F00],
    "F64": [0x7FF0 << 48, 0xFFF0 << 48, (0x7FF0 << 48) + 1, 0x7FEFFFFFFFFFFFFF, 0x7FE0 << 48],
    "C64": [0x7F80000000000000, 0x7F800000, 0x7F7FFFFF7F7FFFFF],
}


@st.composite
def items(draw: st.DrawFn) -> tuple[str, bytes]:
    dtype = draw(st.sampled_from(sorted(WIDTHS)))
    width = WIDTHS[dtype]
    edge = st.sampled_from(EDGES[dtype]).map(lambda bits: bits.to_bytes(width, "little"))
    each = st.binary(min_size=width, max_size=width) | edge
    return dtype, b"".join(draw(st.lists(each, max_size=12)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(items())
def test_the_scan_agrees_with_reading_each_number(tmp_path: Path, item: tuple[str, bytes]) -> None:
    dtype, data = item
    width = WIDTHS[dtype]
    file = tmp_path / "x.safetensors"
    file.write_bytes(tensor_file(w=(dtype, [len(data) // width], data)))
    finite = all(is_finite(dtype, data[at : at + width]) for at in range(0, len(data), width))
    assert nonfinite(file) == (() if finite else ("w",))


@pytest.mark.parametrize(
    ("dtype", "bad", "good"),
    [("F8_E5M2", 0x7C, 0x7B), ("F8_E5M2", 0xFF, 0xFB), ("F8_E4M3", 0x7F, 0x7E), ("F8_E8M0", 0xFF, 0xFE)],
)
def test_eight_bit_floats_are_read_too(tmp_path: Path, dtype: str, bad: int, good: int) -> None:
    for value, found in ((bad, ("w",)), (good, ())):
        (tmp_path / "x.safetensors").write_bytes(tensor_file(w=(dtype, [2], bytes([0, value]))))
        assert nonfinite(tmp_path / "x.safetensors") == found


def test_integers_are_always_finite_and_each_bad_tensor_is_named(tmp_path: Path) -> None:
    nan = struct.pack("<f", math.nan)
    file = tmp_path / "x.safetensors"
    file.write_bytes(
        tensor_file(
            a=("U8", [2], b"\xff\xff"), b=("F32", [1], nan), c=("I64", [1], b"\xff" * 8), d=("F32", [], nan)
        )
    )
    assert nonfinite(file) == ("b", "d")


def test_a_bad_number_at_the_edge_of_a_chunk_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_check, "_CHUNK_BYTES", 16)
    file = tmp_path / "x.safetensors"
    for at in range(9):
        data = bytearray(36)
        data[4 * at : 4 * at + 4] = struct.pack("<f", -math.inf)
        file.write_bytes(tensor_file(w=("F32", [9], bytes(data))))
        assert nonfinite(file) == ("w",)


def test_it_reads_what_the_safetensors_library_writes(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    arrays = {"one": np.ones((2, 3), np.float16), "two": np.zeros((0, 4), np.float32), "three": np.array(7)}
    save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = {tensor.name: tensor.shape for tensor in read_header(tmp_path / "x.safetensors")}
    assert found == {"one": (2, 3), "two": (0, 4), "three": ()}
    assert nonfinite(tmp_path / "x.safetensors") == ()


SOUND = tensor_file(w=("F32", [2], bytes(8)))


def with_header(header: object, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(**changes: object) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "truncated or no safetensors file"),
        (SOUND[:5], "truncated or no safetensors file"),
        (SOUND[:20], "truncated or no safetensors file"),
        (SOUND[:-1], "describes"),
        (SOUND + b"x", "describes"),
        (b"\x80\x04\x95" + bytes(60), "truncated or no safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (with_header(b"{not json"), "header is broken"),
        (with_header(b"[" * 100_000), "header is broken"),
        (with_header([1]), "header is broken"),
        (with_header(one(dtype="F31")), "header is broken"),
        (with_header(one(shape="ab")), "header is broken"),
        (with_header({"w": {}}), "header is broken"),
        (with_header(one(shape=[3])), r"8 bytes for shape \[3\] of F32"),
        (with_header(one(shape=[-2])), "8 bytes for shape"),
        (with_header(one(data_offsets=[8, 0])), "-8 bytes"),
        (with_header(one(data_offsets=[4, 12]), bytes(12)), "gap or overlaps"),
        (with_header(one() | {"v": one()["w"]}), "gap or overlaps"),
    ],
)
def test_a_file_that_is_not_sound_is_refused_with_the_reason(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(TensorFileError, match=words):
        nonfinite(tmp_path / "x.safetensors")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail_in_another_way(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(with_header(data))
    with contextlib.suppress(TensorFileError):
        read_header(tmp_path / "x.safetensors")


def floats(*values: float) -> tuple[str, list[int], bytes]:
    return "F32", [len(values)], struct.pack(f"<{len(values)}f", *values)


@pytest.mark.parametrize(
    ("tensors", "changes_the_base"),
    [
        ({"q.lora_A.weight": floats(1), "q.lora_B.weight": floats(0.5)}, True),
        ({"q.lora_A.weight": floats(1), "q.lora_B.weight": floats(0, -0.0)}, False),
        ({"q.lora_A.weight": floats(0), "q.lora_B.weight": floats(1)}, False),
        ({"q.lora_A.weight": floats(1), "k.lora_B.weight": floats(1)}, False),
        ({"q.lora_A.weight": floats(1), "q.lora_B.weight": floats(0), "score.weight": floats(0)}, None),
        ({"q.lora_magnitude_vector": floats(1)}, None),
    ],
    ids=["trained", "zero B", "zero A", "no pair", "whole module", "magnitude"],
)
def test_a_delta_of_zero_is_seen(
    tmp_path: Path, tensors: dict[str, tuple[str, list[int], bytes]], changes_the_base: bool | None
) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(tensor_file(**tensors))
    assert delta_nonzero(tmp_path) is changes_the_base
