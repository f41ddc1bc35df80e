"""Read safetensors files without torch: is the file sound, is every number finite, is a delta zero."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HEADER_LIMIT_BYTES: Final = 100_000_000
_CHUNK_BYTES: Final = 4 * 1024 * 1024
_LFS_POINTER: Final = b"version https://git-lfs"

_ITEM_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class TensorFileError(ValueError):
    """The file is not a whole, well-formed safetensors file; the message says why, without the path."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: its type, its shape and where its bytes lie in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Exponent:
    """The bit patterns of Inf and NaN: an item is one when its high byte is in `high` and, if given,
    the byte below is at least `low`. Little-endian, as the format demands.
    """

    width: int
    high: bytes
    low: int | None = None


_NOT_FINITE: Final = {
    "F64": _Exponent(8, b"\x7f\xff", 0xF0),
    "F32": _Exponent(4, b"\x7f\xff", 0x80),
    "C64": _Exponent(4, b"\x7f\xff", 0x80),
    "BF16": _Exponent(2, b"\x7f\xff", 0x80),
    "F16": _Exponent(2, bytes([*range(0x7C, 0x80), *range(0xFC, 0x100)])),
    "F8_E5M2": _Exponent(1, bytes([*range(0x7C, 0x80), *range(0xFC, 0x100)])),
    "F8_E4M3": _Exponent(1, b"\x7f\xff"),
    "F8_E8M0": _Exponent(1, b"\xff"),
}


def is_pointer(file: Path) -> bool:
    """Tell whether Git LFS left a pointer in the place of the file."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(len(_LFS_POINTER)) == _LFS_POINTER


def read_header(file: Path) -> tuple[Tensor, ...]:
    """List the tensors of a file in the order of their bytes.

    Raises TensorFileError unless the header is sound and the tensors fill the file without gap or overlap.
    """
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if prefix == _LFS_POINTER[:8] and is_pointer(file):
            raise TensorFileError("it is a Git LFS pointer, not the weights (run `git lfs pull`)")
        length = int.from_bytes(prefix, "little")
        size = file.stat().st_size
        if len(prefix) < 8 or length > min(_HEADER_LIMIT_BYTES, size - 8):
            raise TensorFileError(f"it is truncated or no safetensors file ({size} bytes)")
        header = stream.read(length)
    tensors = sorted(_parse(header, 8 + length), key=lambda tensor: (tensor.start, tensor.stop))
    end = 8 + length
    for tensor in tensors:
        if tensor.start != end:
            raise TensorFileError(f"tensor {tensor.name!r} leaves a gap or overlaps another")
        end = tensor.stop
    if end != size:
        raise TensorFileError(f"its header describes {end} bytes and the file has {size}")
    return tuple(tensors)


def nonfinite(file: Path) -> tuple[str, ...]:
    """Name the tensors that hold an Inf or a NaN; TensorFileError when the file is not sound."""
    found = []
    tensors = read_header(file)
    with file.open("rb") as stream:
        for tensor in tensors:
            pattern = _NOT_FINITE.get(tensor.dtype)
            if pattern is None:
                continue  # integers, and the small floats that have no such pattern
            stream.seek(tensor.start)
            if any(_holds(chunk, pattern) for chunk in _chunks(stream.read, tensor.stop - tensor.start)):
                found.append(tensor.name)
    return tuple(found)


def delta_nonzero(folder: Path) -> bool | None:
    """Tell whether a LoRA adapter changes its base at all.

    True when some pair of `lora_A` and `lora_B` has a nonzero number in both; False when none has;
    None when other tensors (a magnitude, whole modules) could change the base and only a comparison
    with the base would tell.
    """
    sides: dict[str, set[str]] = {}
    others = False
    for file in sorted(folder.glob("*.safetensors")):
        tensors = read_header(file)
        with file.open("rb") as stream:
            for tensor in tensors:
                side = next((s for s in ("lora_A", "lora_B") if s in tensor.name), None)
                if side is None:
                    others = others or "lora_" not in tensor.name or "magnitude" in tensor.name
                    continue
                stream.seek(tensor.start)
                if any(_nonzero(chunk) for chunk in _chunks(stream.read, tensor.stop - tensor.start)):
                    sides.setdefault(tensor.name.partition(side)[0], set()).add(side)
    if any(len(found) == 2 for found in sides.values()):
        return True
    return None if others else False


def _parse(header: bytes, offset: int) -> Iterator[Tensor]:
    try:
        tree = json.loads(header)
        for name, entry in tree.items():
            if name == "__metadata__":
                continue
            dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            items = math.prod(shape)
            if not 0 <= start <= stop or items < 0 or (stop - start) * 8 != items * _ITEM_BITS[dtype]:
                claim = f"shape {list(shape)} of {dtype}"
                raise TensorFileError(f"tensor {name!r} has {stop - start} bytes for {claim}")
            yield Tensor(name, dtype, shape, offset + start, offset + stop)
    except TensorFileError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TensorFileError(f"its header is broken ({type(error).__name__}: {error})") from None


def _chunks(read: object, total: int) -> Iterator[bytes]:
    assert callable(read)
    while total > 0:
        chunk = read(min(_CHUNK_BYTES, total))
        if not chunk:
            raise TensorFileError("it ended while it was read")
        total -= len(chunk)
        yield chunk


def _holds(chunk: bytes, pattern: _Exponent) -> bool:
    """Test one chunk; the first test is a memory search and almost always the only one."""
    high = chunk[pattern.width - 1 :: pattern.width]
    if not any(bytes([byte]) in high for byte in pattern.high):
        return False
    if pattern.low is None:
        return True
    low = chunk[pattern.width - 2 :: pattern.width]
    high_bits = bytes(1 if byte in pattern.high else 0 for byte in range(256))
    low_bits = bytes(1 if byte >= pattern.low else 0 for byte in range(256))
    high_hits = int.from_bytes(high.translate(high_bits), "little")
    return (high_hits & int.from_bytes(low.translate(low_bits), "little")) != 0


def _nonzero(chunk: bytes) -> bool:
    # 0x80 alone is the sign of a negative zero in every float type; a number also needs another bit,
    # except the smallest ones, which no optimizer writes on their own.
    return bool(chunk.strip(b"\x00\x80"))
