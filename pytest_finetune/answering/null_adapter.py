"""A null adapter: random weights of a trained one's shapes and sizes, to see what any change of that size does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file

from pytest_finetune.answering.runtimes.attach import CONFIG, WEIGHTS

_FIRST_HALF: Final = re.compile(r"\blora_(embedding_)?A\b")


def write_null_adapter(adapter: Path, folder: Path, seed: int = 0) -> None:
    """Write a random adapter: each module is changed by a matrix of the norm (Frobenius) that was trained."""
    trained, draw = load_file(adapter / WEIGHTS), torch.Generator().manual_seed(seed)
    made = {name: torch.randn(tensor.shape, generator=draw) for name, tensor in sorted(trained.items())}
    for names in _changes(trained):
        scale = (_norm(trained, names) / _norm(made, names)) ** (1 / len(names))
        for name in names:
            made[name] = (made[name] * scale).to(trained[name].dtype)
    save_file(made, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copy(adapter / CONFIG, folder)


def _changes(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, ...]]:
    """Yield the names of the two matrices whose product changes a module; any other tensor changes it alone."""
    halves = {
        name: other
        for name in tensors
        if (other := _FIRST_HALF.sub(lambda found: f"lora_{found[1] or ''}B", name)) != name
        and other in tensors
        and tensors[name].ndim == tensors[other].ndim == 2
        and tensors[other].shape[1] == tensors[name].shape[0]
    }
    yield from halves.items()
    paired = {*halves, *halves.values()}
    yield from ((name,) for name in tensors if name not in paired)


def _norm(tensors: Mapping[str, torch.Tensor], names: tuple[str, ...]) -> float:
    """Return the norm of a tensor, or of the product of two without making it."""
    first, *second = (tensors[name].double() for name in names)
    if not second:
        return float(first.norm())
    return float((second[0].mT @ second[0] * (first @ first.mT)).sum().clamp(min=0).sqrt())
