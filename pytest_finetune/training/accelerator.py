"""The accelerator's own count of the memory that was used (None on a device that keeps none), and the process's."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def reset_peak(device: str) -> None:
    """Start counting anew."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(torch.device(device))


def peak_reserved(device: str) -> int | None:
    """Return the bytes that the caching allocator held at most: what the card must have free."""
    return torch.cuda.max_memory_reserved(torch.device(device)) if device.startswith("cuda") else None


def peak_allocated(device: str) -> int | None:
    """Return the bytes that tensors took at most."""
    return torch.cuda.max_memory_allocated(torch.device(device)) if device.startswith("cuda") else None


def in_use(device: str) -> int | None:
    """Return the bytes that the card holds reserved now, or the process's resident ones where it computes itself."""
    if device.startswith("cuda"):
        return torch.cuda.memory_reserved(torch.device(device))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):  # no such file but on Linux
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
