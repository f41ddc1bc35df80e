"""Leases: one NVIDIA GPU of this machine for one process, until it gives it back or dies."""

from __future__ import annotations

import errno
import math
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_finetune.memory.hardware import nvidia
from pytest_finetune.store.lock import Held, first_free


@dataclass(frozen=True, slots=True)
class Lease:
    """A leased GPU; `device` is its name in torch, in this process."""

    card: nvidia.Card
    device: str
    held: Held

    def release(self) -> None:
        """Let another process have the GPU."""
        self.held.release()

    def as_json(self) -> dict[str, str]:
        """Return the lease as the record keeps it."""
        return {"uuid": self.card.uuid, "cuda_visible_devices": self.card.word}


def lease_gpu(
    wanted: int | None, on_wait: Callable[[str], None], warn: Callable[[str], None]
) -> Lease | None:
    """Lease the visible GPU that torch calls ``cuda:<wanted>``, or the first free one; wait where all are leased.

    From then on CUDA_VISIBLE_DEVICES shows this process the leased GPU alone. `on_wait` hears who holds what is
    waited for and since when. None, with a warning, where leases cannot be kept; None without one where no NVIDIA
    GPU is visible.
    """
    cards = nvidia.visible()
    choice = [card for card in (cards if wanted is None else cards[wanted : wanted + 1]) if card.uuid]
    if not choice:
        return None
    try:
        folder = _folder()
    except OSError as error:
        warn(f"no GPU is leased, so workers may meet on one: {error.filename}: {error.strerror}")
        return None
    files = {
        folder / f"{card.uuid.replace('/', '_')}.lock": card for card in choice
    }  # old MIG names have slashes
    held = first_free(list(files), on_wait, _what(choice), math.inf, warn)
    if held is None:
        return None
    card = files[held.file]
    return Lease(card, _show_only(card, cards), held)


def _what(cards: Sequence[nvidia.Card]) -> str:
    names = ", ".join(f"GPU {card.word}" if card.word.isdigit() else card.word for card in cards)
    return f"one of {names}" if len(cards) > 1 else names


def _show_only(card: nvidia.Card, cards: Sequence[nvidia.Card]) -> str:
    """Hide the other GPUs and return the name of this one; where CUDA already sees them all, nothing can be hidden."""
    if nvidia.awake():
        return f"cuda:{cards.index(card)}"
    if nvidia.VISIBLE not in os.environ:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the word is the driver's own number
    os.environ[nvidia.VISIBLE] = card.word
    return "cuda"


def _folder() -> Path:
    """Return the folder of this user's leases on this machine, which nobody else can write to."""
    if os.name == "nt":
        raise OSError(errno.ENOTSUP, "there are no such locks on Windows", tempfile.gettempdir())
    folder = Path(tempfile.gettempdir()) / f"pytest-finetune-leases-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    if not private:
        raise PermissionError(errno.EPERM, "not a private folder of this user", str(folder))
    return folder
