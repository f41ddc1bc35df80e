"""The accelerator's own count of the memory that was used; None on a device that keeps none."""

from __future__ import annotations

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
