"""How a step ends: the word that it tells in the store, and the code with which its process exits."""

from __future__ import annotations

from typing import Final, NamedTuple

from pytest_finetune.store import jobs


class Outcome(NamedTuple):
    """One way to end: its word, its exit code, and what it means for whoever reads the code."""

    word: str
    code: int
    means: str


DONE: Final = Outcome(jobs.DONE, 0, "the result is in the store, whoever made it")
FAILED: Final = Outcome("failed", 1, "the training or the model failed; the message says how")
REFUSED: Final = Outcome(
    "refused", 2, "nothing was run: other versions, another card, an unknown or bad request"
)
MEMORY: Final = Outcome("out of memory", 3, "the card was too small")
INTERRUPTED: Final = Outcome(
    jobs.INTERRUPTED,
    130,
    "it was asked to stop; a training has sealed a checkpoint, from which the same step goes on",
)
OUTCOMES: Final = {outcome.word: outcome for outcome in (DONE, FAILED, REFUSED, MEMORY, INTERRUPTED)}
RUNNING: Final = jobs.RUNNING
