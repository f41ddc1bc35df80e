"""The words and number formats of the evaluation's messages, in one place."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_ARMS = {
    "baseline": "the base model",
    "prompted": "the prompt alone",
    "best_prompt": "the best hand-written prompt",
    "constrained": "constrained decoding of the base model",
    "champion": "the champion",
    "tuned": "the tuned model",
}


def arm(name: str) -> str:
    """Name an arm in a sentence."""
    return _ARMS.get(name, f"arm {name!r}")


def points(share: float) -> str:
    """Write a difference of rates in percentage points, signed.

    >>> points(0.125), points(-0.03)
    ('+12.5 points', '-3.0 points')
    """
    return f"{signed(share)} points"


def signed(share: float) -> str:
    """Write a difference of rates times 100 with its sign."""
    return f"{100 * share:+.1f}".replace("-0.0", "+0.0")


def margin(share: float) -> str:
    """Write a threshold in points, as short as it was given.

    >>> margin(0.1), margin(0.025)
    ('10 points', '2.5 points')
    """
    return f"{float(f'{100 * share:.6g}'):g} points"


def percent(rate: float) -> str:
    """Write a rate."""
    return f"{100 * rate:.1f}%"


def p(value: float) -> str:
    """Write a p-value.

    >>> p(0.0312), p(3e-9)
    ('p = 0.031', 'p < 0.0001')
    """
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def rows(n: int) -> str:
    """Count rows.

    >>> rows(1), rows(1200)
    ('1 row', '1,200 rows')
    """
    return "1 row" if n == 1 else f"{n:,} rows"


def listed(names: Sequence[str], most: int = 5) -> str:
    """List the first names and count the others.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def shortened(text: str, most: int) -> str:
    """Cut a line to a length."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."


def nearest(word: str, known: Sequence[str]) -> str | None:
    """Return the known word most like `word`, if one is near."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return found[0] if found else None


def unknown_key(word: str, known: Sequence[str]) -> str:
    """Say that a key is not known, and which one was probably meant."""
    guess = nearest(word, known)
    hint = f"did you mean {guess!r}? " if guess else ""
    return f"unknown key; {hint}known here: {', '.join(sorted(known))}"
