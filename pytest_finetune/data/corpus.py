"""Many texts as numbered words, and the hashes of their n-grams, a chunk of texts at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from pytest_finetune.data.words import shingles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Indices = NDArray[np.int64]

# Texts whose n-grams are in memory at once; below 2**16, so that a text's number in its chunk sorts by radix.
CHUNK: Final = 50_000


class Vocabulary(dict[str, int]):
    """Numbers for words, given as they come."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


class Corpus:
    """Texts as word numbers: text i is ``ids[starts[i]:starts[i + 1]]``."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids = array("i")
        self._starts = array("q", [0])

    def add(self, words: Sequence[str]) -> None:
        """Append a text; not after `ids` or `starts` were asked for."""
        self._ids.extend(map(self._vocabulary.__getitem__, words))
        self._starts.append(len(self._ids))

    @cached_property
    def ids(self) -> NDArray[np.int32]:
        """Return the word numbers of all texts, one after another."""
        import numpy as np

        return np.frombuffer(self._ids, dtype=np.int32) if self._ids else np.zeros(0, np.int32)

    @cached_property
    def starts(self) -> Indices:
        """Return where each text begins in `ids`, and where the last one ends."""
        import numpy as np

        return np.frombuffer(self._starts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def grams(self, index: int, size: int) -> set[tuple[int, ...]]:
        """Return the word n-grams of one text."""
        return shingles(self.ids[self.starts[index] : self.starts[index + 1]].tolist(), size)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of texts that are worked on at once."""
        for low in range(0, len(self), CHUNK):
            yield low, min(low + CHUNK, len(self))

    def hashes(self, size: int, low: int, high: int) -> tuple[Hashes, Indices]:
        """Return the hashes of all n-grams of texts `low` to `high`, in text order, and the text of each.

        As with `shingles`, a text of fewer words is one n-gram; repeated n-grams of a text are repeated.
        """
        import numpy as np

        begin, end = self.starts[low], self.starts[high]
        ids = self.ids[begin:end].astype(np.uint64) + np.uint64(1)
        lengths = np.diff(self.starts[low : high + 1])
        texts = np.repeat(np.arange(low, high), lengths)
        left = np.repeat(self.starts[low + 1 : high + 1] - begin, lengths) - np.arange(len(ids))
        hashes = np.zeros(len(ids), dtype=np.uint64)
        for step in range(min(size, len(ids))):
            reach = len(ids) - step
            longer = _mixed(hashes[:reach] * np.uint64(0x9E3779B97F4A7C15) + ids[step:])
            hashes[:reach] = np.where(left[:reach] > step, longer, hashes[:reach])
        first = np.zeros(len(ids), dtype=bool)
        first[(self.starts[low:high] - begin)[lengths > 0]] = True
        whole = (left >= size) | first
        return hashes[whole], texts[whole]


def _mixed(value: Hashes) -> Hashes:
    """Scatter bits (the finaliser of splitmix64: Steele, Lea, Flood 2014)."""
    import numpy as np

    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
