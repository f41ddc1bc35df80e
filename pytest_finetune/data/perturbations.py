"""Change a question in ways that should not change its answer: the raw material of invariance rules.

Each function takes a text and a `random.Random` and gives another text; where nothing can be changed (no
letter, no number, no name) it gives the text back.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import Final

NAMES: Final = (
    "Amara",
    "Boris",
    "Chiara",
    "Deniz",
    "Elif",
    "Farid",
    "Greta",
    "Hiro",
    "Ines",
    "Jonas",
    "Kofi",
    "Lucia",
)
DISTRACTORS: Final = (
    "Thanks in advance.",
    "It is raining here today.",
    "I am writing this from my phone.",
    "Have a nice week.",
    "Our office moved to the third floor last month.",
    "By the way, the new coffee machine is great.",
)

_WORD: Final = re.compile(r"[^\W\d_]{4,}")
_NUMBER: Final = re.compile(r"\d+")
_NAME: Final = re.compile(rf"\b(?:{'|'.join(NAMES)})\b")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")


def case(text: str, rng: random.Random) -> str:
    """Write all in capitals, all small, or the first letter the other way."""
    choice = rng.randrange(3)
    if choice == 2:
        return text[:1].swapcase() + text[1:]
    return text.upper() if choice == 0 else text.lower()


def white_space(text: str, rng: random.Random) -> str:
    """Double some spaces, or put white space around the text."""
    if rng.random() < 0.3:
        return rng.choice((f" {text}", f"{text} ", f"{text}\n", f"\t{text}"))
    spaces = [match.start() for match in re.finditer(" ", text)]
    if not spaces:
        return f"{text} "
    doubled = set(rng.sample(spaces, k=rng.randint(1, len(spaces))))
    return "".join("  " if place in doubled else character for place, character in enumerate(text))


def typo(text: str, rng: random.Random) -> str:
    """Swap, drop or double one inner letter of a word of four letters or more."""
    words = list(_WORD.finditer(text))
    if not words:
        return text
    word = rng.choice(words)
    place = rng.randrange(word.start() + 1, word.end() - 2)
    here, there = text[place], text[place + 1]
    changed = rng.choice((there + here, there, here + here + there))
    return text[:place] + changed + text[place + 2 :]


def number_swap(text: str, rng: random.Random) -> str:
    """Replace one number by another of as many digits; for answers that do not hang on the number."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return text
    found = rng.choice(numbers)
    first = "123456789" if len(found[0]) > 1 else "0123456789"
    digits = rng.choice(first) + "".join(rng.choices("0123456789", k=len(found[0]) - 1))
    return text[: found.start()] + digits + text[found.end() :]


def name_swap(text: str, rng: random.Random, names: tuple[str, ...] = NAMES) -> str:
    """Replace every occurrence of one of the known first names by another."""
    pattern = _NAME if names is NAMES else re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b")
    found = sorted(set(pattern.findall(text)))
    if not found:
        return text
    old = rng.choice(found)
    new = rng.choice([name for name in names if name not in found] or [old])
    return re.sub(rf"\b{re.escape(old)}\b", new, text)


def distractor(text: str, rng: random.Random) -> str:
    """Add a sentence that has nothing to do with the question, between or after its sentences."""
    sentences = _SENTENCE_END.split(text.strip())
    sentences.insert(rng.randint(1, len(sentences)), rng.choice(DISTRACTORS))
    return " ".join(sentences)


KINDS: Final[Mapping[str, Callable[[str, random.Random], str]]] = {
    "case": case,
    "white space": white_space,
    "typo": typo,
    "number swap": number_swap,
    "name swap": name_swap,
    "distractor": distractor,
}


def perturb(text: str, kind: str, seed: int) -> str:
    """Change `text` in one of the `KINDS`, the same way for the same seed."""
    return KINDS[kind](text, random.Random(seed))
