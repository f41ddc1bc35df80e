"""A rule against answers that recite what was trained on."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_finetune.rules.making import as_rule, wrong

if TYPE_CHECKING:
    from pytest_finetune.answering.response import Response
    from pytest_finetune.data.rows import Row, Rows

Words = tuple[str, ...]


def no_training_text(words: int = 12, **thresholds: object) -> Callable[..., None]:
    """Make a rule: no `words` words in a row that stand in a training row, question or answer.

    What stands in the row's own question or in its expected answer may be said. Case and punctuation do not count.
    """
    if type(words) is not int or words < 3:
        raise wrong("words", words, "a whole number of at least 3")

    def no_training_text(response: Response, example: Row, train_rows: Rows) -> None:
        found = _sequences(response.text, words) & _trained(train_rows, words)
        found -= _sequences(example.input, words) | _sequences(example.expected, words)
        if found:
            raise AssertionError(f"repeats training text: {' '.join(min(found))!r}")

    return as_rule(no_training_text, thresholds)


@lru_cache(maxsize=4)
def _trained(rows: Rows, words: int) -> frozenset[Words]:
    return frozenset(
        sequence for row in rows for text in (row.input, row.output) for sequence in _sequences(text, words)
    )


def _sequences(text: str, words: int) -> set[Words]:
    """Return the word sequences of exactly that length; a shorter text has none."""
    from pytest_finetune.data.words import shingles, words_of

    found = words_of(text)
    return shingles(found, words) if len(found) >= words else set()
