"""How far the tensors of two folders lie apart; no torch, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.safetensors_check import Tensor, read_header

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_TYPES: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "i1", "U8": "u1"}


class Place(NamedTuple):
    """A tensor and the file that it lies in."""

    file: Path
    tensor: Tensor


def largest_difference(first: Path, second: Path, *, common: bool = False) -> float | None:
    """Return the largest absolute difference between two folders' tensors of the same name.

    None when they cannot be compared: other names or other shapes. With `common`, names that only one folder has are
    passed over (a model leaves out what is tied).
    """
    import numpy as np

    one, other = _tensors(first), _tensors(second)
    names = sorted(one.keys() & other.keys())
    if not names or (not common and one.keys() != other.keys()):
        return None
    largest = 0.0
    for name in names:
        left, right = _values(one[name]), _values(other[name])
        if left is None or right is None or left.shape != right.shape:
            return None
        if left.size:
            largest = max(largest, float(np.max(np.abs(left - right))))
    return largest


def _tensors(folder: Path) -> Mapping[str, Place]:
    files = sorted(folder.glob("*.safetensors"))
    return {tensor.name: Place(file, tensor) for file in files for tensor in read_header(file)}


def _values(place: Place) -> npt.NDArray[np.float64] | None:
    """Read one tensor as float64; None for a type that has no plain numbers."""
    import numpy as np

    tensor = place.tensor
    with place.file.open("rb") as stream:
        stream.seek(tensor.start)
        data = stream.read(tensor.stop - tensor.start)
    if tensor.dtype == "BF16":  # the upper half of a float32
        wide = np.frombuffer(data, "<u2").astype("<u4") << 16
        return wide.view("<f4").astype(np.float64).reshape(tensor.shape)
    if tensor.dtype not in _TYPES:
        return None
    return np.frombuffer(data, _TYPES[tensor.dtype]).astype(np.float64).reshape(tensor.shape)
