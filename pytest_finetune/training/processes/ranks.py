"""This process among those that train together: what they add up, and the order in which they share the rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
import torch.distributed as distributed
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler

from pytest_finetune.training.tokenised import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset

_STORE: Final = "ranks"


def join(folder: Path, device: str) -> None:
    """Meet the other processes through a file in their private folder: no port is opened for it."""
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if device.startswith("cuda"):
        torch.cuda.set_device(torch.device(device))
    distributed.init_process_group(
        "nccl" if device.startswith("cuda") else "gloo",
        store=distributed.FileStore(str(folder / _STORE), count),  # type: ignore[attr-defined]
        rank=rank,
        world_size=count,
    )


def leave() -> None:
    """Part from the others."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def count() -> int:
    """Return how many processes train together, as they found one another; 1 for a process alone."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Tell whether this is the process that writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def backend() -> str:
    """Return what the processes talk through."""
    return str(distributed.get_backend())


def wait() -> None:
    """Wait until every process is here."""
    if count() > 1:
        distributed.barrier()


def summed(values: list[float], device: torch.device) -> list[float]:
    """Add up each value over the processes."""
    return _reduced(values, device, distributed.ReduceOp.SUM)


def largest(value: int | None, device: torch.device) -> int | None:
    """Return the largest value of any process, None where nobody has one."""
    if value is None or count() == 1:
        return value
    return int(_reduced([float(value)], device, distributed.ReduceOp.MAX)[0])


def _reduced(values: list[float], device: torch.device, how: distributed.ReduceOp.RedOpType) -> list[float]:
    if count() == 1:
        return values
    # float64 holds every whole number of bytes that a card can have.
    numbers = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(numbers, how)
    return [float(number) for number in numbers]


class SharedOrder(Sampler[int]):
    """The order in which one process alone would see `rows` rows, dealt out in batches to all of them.

    It ends with the index `rows`, a row without loss, until the batches of all processes are as many. The epoch is
    asked for when it begins, because a resumed trainer tells it to no sampler.
    """

    def __init__(self, rows: int, dealt: int, seed: int, epoch: Callable[[], int]) -> None:
        self._rows, self._seed, self._epoch = rows, seed, epoch
        self._length = -(-rows // dealt) * dealt

    def __len__(self) -> int:
        """Return the number of places, those without loss among them."""
        return self._length

    def __iter__(self) -> Iterator[int]:
        """Yield the rows of the epoch that begins."""
        order = SeedableRandomSampler(range(self._rows), data_seed=self._seed)
        order.set_epoch(self._epoch())
        yield from order
        yield from [self._rows] * (self._length - self._rows)


def with_filler(rows: Dataset) -> Dataset:
    """Return the data set with one row more: the shortest again, but none of its tokens carries loss."""
    lengths = [len(ids) for ids in rows["input_ids"]]
    filler = dict(rows[lengths.index(min(lengths))])
    return rows.add_item({**filler, "labels": [IGNORED] * len(filler["labels"])})
