"""Texts as sequences of words, so that case, punctuation, spacing and Unicode form do not tell two texts apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Sequence
from typing import Final, TypeVar

Part = TypeVar("Part", bound=Hashable)

# Scripts without spaces between words: each character counts as a word.
_WIDE: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
_WORD: Final = re.compile(rf"[{_WIDE}]|[^\W{_WIDE}]+")
_ASCII: Final = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}


def words_of(text: str) -> list[str]:
    """Return the words of a text, folded: NFKC, lower case, no punctuation.

    >>> words_of("Can't log-in  (again)!")
    ['can', 't', 'log', 'in', 'again']
    """
    if text.isascii():
        return text.lower().translate(_ASCII).split()
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
