"""What CUDA takes on a card beside PyTorch's tensors: ``...context_probe INDEX``.

It runs in a process of its own, whose context is gone afterwards. The card's free memory is read before CUDA is
initialised, and again after the kernels of a small training step were loaded.
"""

from __future__ import annotations

import sys

from pytest_finetune.memory.hardware import nvidia
from pytest_finetune.memory.hardware.budget import Budget


def taken(index: int) -> int | None:
    """Return the bytes that CUDA took on the card for this process; None where the driver does not tell."""
    before = nvidia.card(index)
    if before is None:
        return None
    cached = _step(f"cuda:{index}")
    after = nvidia.card(index)
    return None if after is None else _free(before) - _free(after) - cached


def _free(card: Budget) -> int:
    return card.free_bytes


def _step(device: str) -> int:
    """Run one step of what every training runs; return the bytes that the allocator keeps."""
    import torch

    place = torch.device(device)
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    weight = torch.nn.Parameter(torch.zeros(64, 64, device=place))
    with torch.autocast("cuda", dtype=dtype):
        rows = torch.zeros(2, 8, 64, device=place) @ weight
        heads = rows.view(2, 8, 4, 16).transpose(1, 2)
        out = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        loss = torch.nn.functional.cross_entropy(
            out.reshape(-1, 16).float(), torch.zeros(64, device=place).long()
        )
    loss.backward()  # type: ignore[no-untyped-call]
    torch.optim.AdamW([weight], foreach=True).step()
    torch.cuda.synchronize(place)
    return torch.cuda.memory_reserved(place)


if __name__ == "__main__":
    found = taken(int(sys.argv[1]))
    if found is not None:
        print(found)
