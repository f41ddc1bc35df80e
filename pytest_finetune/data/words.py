"""Texts as words, so that case, punctuation, spacing and Unicode form do not tell two texts apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Sequence
from typing import Final, TypeVar

Part = TypeVar("Part", bound=Hashable)

# Scripts without spaces between words: each character counts as a word.
_WIDE: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
_WORD: Final = re.compile(rf"[{_WIDE}]|[^\W{_WIDE}]+")
# Lower case, and a space for what belongs to no word; for ASCII alone, where bytes are ten times as fast.
_ASCII: Final = (
    "".join(c.lower() if c.isalnum() or c == "_" else " " for c in map(chr, range(128))).encode().ljust(256)
)


def words_of(text: str) -> list[str]:
    """Return the words of a text, folded: NFKC, lower case, no punctuation.

    >>> words_of("Can't log-in  (again)!")
    ['can', 't', 'log', 'in', 'again']
    """
    if text.isascii():
        return text.encode().translate(_ASCII).decode().split()
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def shingles(words: Sequence[Part], size: int) -> set[tuple[Part, ...]]:
    """Return the word n-grams of a text; a text of fewer words is one shingle, an empty one has none."""
    if len(words) <= size:
        return {tuple(words)} if words else set()
    return set(zip(*(words[start:] for start in range(size)), strict=False))


def jaccard(left: set[Part], right: set[Part]) -> float:
    """Return the size of the intersection over the size of the union; 0 for two empty sets."""
    union = len(left | right)
    return len(left & right) / union if union else 0.0
