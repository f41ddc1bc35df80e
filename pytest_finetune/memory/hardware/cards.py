"""Known cards, by the bytes that a process can get and not by what the box says.

`total_bytes` is the card's memory as the CUDA runtime reports it, the "total capacity" of PyTorch's own
out-of-memory message: ECC, page tables and the driver's reservation are gone from it, so a "24 GB" RTX 4090
has 23.6 GiB. Where drivers differ, the smallest figure stands here. A card without a reading of its own has the
smallest that was read on a card of its size: 5.79 GiB of 6, 7.62 of 8, 11.62 of 12, 15.45 of 16.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pytest_finetune.errors import FinetuneError
from pytest_finetune.memory.hardware.sizes import GiB, MiB
from pytest_finetune.wording import nearest

_SIZE: Final = re.compile(r"[0-9]{2}")
"""The part of a key that is a size in GB, as in a100-80."""


class UnknownCardError(FinetuneError, ValueError):
    """The name is neither a size nor a card of the table; the message lists what is known."""


@dataclass(frozen=True, slots=True)
class Family:
    """What a generation of cards costs a process beside its tensors, and what its kernels can do.

    `context_bytes` lies outside PyTorch's allocator (CUDA context and loaded kernels, after a step was
    trained): measured 140.9 MiB on a T4 and 758 MiB on an H100 (driver 580, CUDA 13), which stands in for
    newer cards; between them 600 MiB do, unmeasured here. `cublas_bytes` is the workspace of one cuBLAS
    handle, which PyTorch allocates through its allocator: one for the thread of the forward, one for the
    thread of the backward (ATen/cuda/CUDAContextLight.h, CublasHandlePool.cpp: 4096 KiB x 2 + 16 KiB x 8,
    from Hopper on 32 MiB).
    `bf16` and `flash` say what the tensor cores can run.
    """

    name: str
    capability: tuple[int, int]
    context_bytes: int = 600 * MiB
    cublas_bytes: int = 8320 * 1024
    bf16: bool = True
    flash: bool = True
    vendor: str = "nvidia"


VOLTA: Final = Family("Volta", (7, 0), bf16=False, flash=False)
TURING: Final = Family("Turing", (7, 5), context_bytes=141 * MiB, bf16=False, flash=False)
AMPERE: Final = Family("Ampere", (8, 0))
ADA: Final = Family("Ada", (8, 9))
HOPPER: Final = Family("Hopper", (9, 0), context_bytes=760 * MiB, cublas_bytes=32 * MiB)
BLACKWELL: Final = Family("Blackwell", (10, 0), context_bytes=760 * MiB, cublas_bytes=32 * MiB)
BLACKWELL_CONSUMER: Final = Family(
    "Blackwell (consumer)", (12, 0), context_bytes=760 * MiB, cublas_bytes=32 * MiB
)
CDNA: Final = Family("CDNA", (9, 4), cublas_bytes=32 * MiB, vendor="amd")
UNKNOWN: Final = Family("unknown accelerator", (8, 0), cublas_bytes=32 * MiB)

FAMILIES: Final = {
    family.name: family
    for family in (VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL, BLACKWELL_CONSUMER, CDNA, UNKNOWN)
}


@dataclass(frozen=True, slots=True)
class Card:
    """One card of the table."""

    key: str
    name: str
    total_bytes: int
    family: Family


def _card(key: str, name: str, total_gib: float, family: Family) -> Card:
    return Card(key, name, int(total_gib * GiB), family)


CARDS: Final[dict[str, Card]] = {
    card.key: card
    for card in (
        _card("v100-16", "NVIDIA V100 16 GB", 15.77, VOLTA),
        _card("v100-32", "NVIDIA V100 32 GB", 31.73, VOLTA),
        _card("t4", "NVIDIA Tesla T4", 14.56, TURING),
        _card("rtx-2060", "NVIDIA RTX 2060", 5.79, TURING),
        _card("rtx-2070", "NVIDIA RTX 2070", 7.62, TURING),
        _card("rtx-2080", "NVIDIA RTX 2080", 7.62, TURING),
        _card("rtx-2080-ti", "NVIDIA RTX 2080 Ti", 10.57, TURING),
        _card("a100-40", "NVIDIA A100 40 GB", 39.38, AMPERE),
        _card("a100-80", "NVIDIA A100 80 GB", 79.14, AMPERE),
        _card("rtx-3060", "NVIDIA RTX 3060", 11.62, AMPERE),
        _card("rtx-3060-laptop", "NVIDIA RTX 3060 Laptop", 5.79, AMPERE),
        _card("rtx-3060-ti", "NVIDIA RTX 3060 Ti", 7.62, AMPERE),
        _card("rtx-3070", "NVIDIA RTX 3070", 7.76, AMPERE),
        _card("rtx-3070-ti", "NVIDIA RTX 3070 Ti", 7.62, AMPERE),
        _card("rtx-3080", "NVIDIA RTX 3080", 9.64, AMPERE),
        _card("rtx-3080-ti", "NVIDIA RTX 3080 Ti", 11.62, AMPERE),
        _card("rtx-3090", "NVIDIA RTX 3090", 23.55, AMPERE),
        _card("a10", "NVIDIA A10", 21.98, AMPERE),
        _card("a10g", "NVIDIA A10G", 21.98, AMPERE),
        _card("rtx-a6000", "NVIDIA RTX A6000", 47.40, AMPERE),
        _card("l4", "NVIDIA L4", 21.96, ADA),
        _card("l40s", "NVIDIA L40S", 44.32, ADA),
        _card("rtx-4060", "NVIDIA RTX 4060", 7.62, ADA),
        _card("rtx-4060-ti", "NVIDIA RTX 4060 Ti", 7.62, ADA),
        _card("rtx-4070", "NVIDIA RTX 4070", 11.62, ADA),
        _card("rtx-4070-super", "NVIDIA RTX 4070 SUPER", 11.62, ADA),
        _card("rtx-4070-ti", "NVIDIA RTX 4070 Ti", 11.62, ADA),
        _card("rtx-4060-ti-16", "NVIDIA RTX 4060 Ti 16 GB", 15.57, ADA),
        _card("rtx-4070-ti-super", "NVIDIA RTX 4070 Ti SUPER", 15.57, ADA),
        _card("rtx-4080", "NVIDIA RTX 4080", 15.57, ADA),
        _card("rtx-4080-super", "NVIDIA RTX 4080 SUPER", 15.45, ADA),
        _card("rtx-4090", "NVIDIA RTX 4090", 23.51, ADA),
        _card("rtx-6000-ada", "NVIDIA RTX 6000 Ada", 47.37, ADA),
        _card("h100", "NVIDIA H100 80 GB", 79.10, HOPPER),
        _card("h200", "NVIDIA H200", 139.72, HOPPER),
        _card("b200", "NVIDIA B200", 178.35, BLACKWELL),
        _card("rtx-5060", "NVIDIA RTX 5060", 7.62, BLACKWELL_CONSUMER),
        _card("rtx-5060-ti-16", "NVIDIA RTX 5060 Ti 16 GB", 15.45, BLACKWELL_CONSUMER),
        _card("rtx-5070", "NVIDIA RTX 5070", 11.62, BLACKWELL_CONSUMER),
        _card("rtx-5070-ti", "NVIDIA RTX 5070 Ti", 15.45, BLACKWELL_CONSUMER),
        _card("rtx-5080", "NVIDIA RTX 5080", 15.45, BLACKWELL_CONSUMER),
        _card("rtx-5090", "NVIDIA RTX 5090", 31.35, BLACKWELL_CONSUMER),
        _card("mi210", "AMD Instinct MI210", 63.98, CDNA),
        _card("mi300x", "AMD Instinct MI300X", 191.98, CDNA),
    )
}


def find_card(name: str) -> Card:
    """Return the card with this name, however it is written (``rtx-4090``, ``RTX 4090``).

    UnknownCardError otherwise.
    """
    key = name.strip().lower().replace(" ", "-").replace("_", "-")
    for prefix in ("nvidia-", "amd-", "geforce-", "tesla-", "instinct-"):
        key = key.removeprefix(prefix)
    card = CARDS.get(key) or CARDS.get(key.removesuffix("gb"))
    if card is not None:
        return card
    near = nearest(key, CARDS)
    guess = f"; did you mean {near!r}?" if near else "."
    raise UnknownCardError(
        f"no card named {name!r} is known{guess} Known are {', '.join(CARDS)}; or give a size, as in 24GiB"
    )


def card_of(name: str, total_bytes: int) -> Card | None:
    """Return the card of the table that a driver's name means; None when the table has none like it.

    >>> card_of("NVIDIA A100-SXM4-80GB", 80 * GiB).key, card_of("NVIDIA GeForce RTX 4060 Ti", 16 * GiB).key
    ('a100-80', 'rtx-4060-ti-16')
    """
    said = set(re.findall(r"[a-z0-9]+", name.lower()))
    words = {key: {word for word in key.split("-") if not _SIZE.fullmatch(word)} for key in CARDS}
    like = [card for key, card in CARDS.items() if words[key] <= said]
    most = max((len(words[card.key]) for card in like), default=0)
    same = [card for card in like if len(words[card.key]) == most]
    return min(same, key=lambda card: abs(card.total_bytes - total_bytes), default=None)


def family_of(capability: tuple[int, int] | None) -> Family:
    """Return the family of an NVIDIA compute capability; the cautious `UNKNOWN` when the table has none."""
    if capability is None:
        return UNKNOWN
    nvidia = [family for family in FAMILIES.values() if family.vendor == "nvidia" and family is not UNKNOWN]
    exact = [family for family in nvidia if family.capability == capability]
    major = [family for family in nvidia if family.capability[0] == capability[0]]
    return (exact or major or [UNKNOWN])[0]
