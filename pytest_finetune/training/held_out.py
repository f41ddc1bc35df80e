"""The loss on held-out rows after each epoch: it is recorded beside the training loss, and nothing acts on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from pytest_finetune.memory.measure import random_state
from pytest_finetune.training.tokenised import IGNORED, TokenRow

if TYPE_CHECKING:
    from trl import SFTTrainer

Row = TypeVar("Row")

MIN_ROWS: Final = 32
MAX_ROWS: Final = 256


class HeldOut(NamedTuple):
    """Held-out rows as the trainer's collator takes them, and how many of them go through at once."""

    examples: tuple[dict[str, list[int]], ...]
    batch: int


def most_rows(trained: int) -> int:
    """Return how many rows to take the loss on: an eighth of those trained on, so that an epoch takes little longer.

    >>> most_rows(80), most_rows(520), most_rows(100_000)
    (32, 65, 256)
    """
    return min(MAX_ROWS, max(MIN_ROWS, trained // 8))


class Unseen(NamedTuple):
    """The rows that are not trained on: those that judge later, and those that the adapter is chosen on."""

    held_out: HeldOut
    dev: HeldOut


def chosen(rows: Sequence[Row], most: int) -> list[Row]:
    """Return at most `most` rows, spread evenly.

    >>> chosen(range(10), 4)
    [0, 2, 5, 7]
    """
    return list(rows) if len(rows) <= most else [rows[place * len(rows) // most] for place in range(most)]


def held_out(rows: Sequence[TokenRow], max_length: int, batch: int) -> HeldOut:
    """Prepare the rows as training rows are prepared, the longest first; rows that carry no loss are left out."""
    taught = [row for row in rows if row.supervised(max_length)]
    taught.sort(key=lambda row: -len(row.ids))  # rows of like length need no padding
    return HeldOut(tuple(_example(row, max_length) for row in taught), batch)


def _example(row: TokenRow, max_length: int) -> dict[str, list[int]]:
    return {
        "input_ids": list(row.ids[:max_length]),
        "labels": row.labels(max_length),
    }


def held_out_loss(trainer: SFTTrainer, rows: HeldOut) -> float:
    """Return the mean loss of a supervised token, by the trainer's own loss, with dropout off.

    The model and the random state are as before afterwards: a training is the same with and without it.
    """
    import torch

    model = trainer.model
    training = model.training
    model.eval()
    total, tokens = 0.0, 0
    try:
        with random_state(), torch.no_grad():
            for batch in _batches(rows):
                inputs = trainer._prepare_inputs(trainer.data_collator(batch))
                supervised = int((inputs["labels"] != IGNORED).sum())
                with trainer.compute_loss_context_manager():
                    total += float(trainer.compute_loss(model, inputs)) * supervised
                tokens += supervised
    finally:
        model.train(training)
    return total / tokens


def _batches(rows: HeldOut) -> Iterator[list[dict[str, list[int]]]]:
    for start in range(0, len(rows.examples), rows.batch):
        yield list(rows.examples[start : start + rows.batch])
