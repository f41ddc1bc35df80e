"""Where an answer differs from the expected one, word by word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Final, NamedTuple

_WORDS: Final = re.compile(r"\w+|\s+|[^\w\s]")
_CLOSE_ENOUGH: Final = 0.4
_MOST_WORDS: Final = 160


class Piece(NamedTuple):
    """A run of an answer's text; `differs` where the expected answer does not have it."""

    text: str
    differs: bool


def marked(answer: str, expected: str) -> list[Piece]:
    """Split an answer into pieces that the expected answer has and pieces that it does not have.

    An answer that shares little with the expected one comes back unmarked: a page of marks points at nothing.
    Long answers are compared by their common beginning and end only, which takes linear time.
    """
    body = answer.strip()
    before, after = (
        answer[: len(answer) - len(answer.lstrip())],
        answer[len(answer.rstrip()) :] if body else "",
    )
    ours, theirs = _WORDS.findall(body), _WORDS.findall(expected.strip())
    head = _common(ours, theirs)
    tail = _common(ours[head:][::-1], theirs[head:][::-1])
    end = len(ours) - tail
    mine, other = ours[head:end], theirs[head : len(theirs) - tail]
    ends, wanted = _length(ours[:head]) + _length(ours[end:]), _CLOSE_ENOUGH * len(body)
    if ends + _most_shared(mine, other) < wanted:  # so with most wrong answers, and it is told at once
        return [Piece(answer, False)]
    middle = _middle(mine, other)
    if ends + _length(text for text, differs in middle if not differs) < wanted:
        return [Piece(answer, False)]
    pieces = [(before + "".join(ours[:head]), False), *middle, ("".join(ours[end:]) + after, False)]
    return [Piece(text, differs) for text, differs in pieces if text]


def _most_shared(ours: list[str], theirs: list[str]) -> int:
    """Return how many characters could be the same at most, in whatever order: blanks never differ."""
    shared = Counter(ours) & Counter(theirs)
    return _length(shared.elements()) + _length(word for word in ours if word.isspace())


def _length(texts: Iterable[str]) -> int:
    return sum(map(len, texts))


def _common(ours: list[str], theirs: list[str]) -> int:
    count = 0
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            break
        count += 1
    return count


def _middle(ours: list[str], theirs: list[str]) -> list[tuple[str, bool]]:
    if not theirs or len(ours) > _MOST_WORDS or len(theirs) > _MOST_WORDS:
        text = "".join(ours)
        return [(text, bool(text.strip()))]
    matcher = SequenceMatcher(None, theirs, ours, autojunk=False)
    found = [("".join(ours[low:high]), tag != "equal") for tag, _, _, low, high in matcher.get_opcodes()]
    return [(text, differs and bool(text.strip())) for text, differs in found]
