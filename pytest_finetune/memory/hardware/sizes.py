"""Read sizes: every size has a unit, and GiB (2**30) is not GB (10**9)."""

from __future__ import annotations

import re
from typing import Final

from pytest_finetune.errors import FinetuneError

MiB: Final = 1024**2
GiB: Final = 1024**3

_UNITS: Final = {
    "b": 1,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
}
_SHARE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?|\.\d+)\s*(%?)\s*$")
_SIZE: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")
_COMMA: Final = re.compile(r"\s*\d+,\d+\s*(?:%|[A-Za-z]*)\s*")


class SizeError(FinetuneError, ValueError):
    """The text is not a size that we can read; the message says what is."""


def looks_like_a_size(text: str) -> bool:
    """Tell whether `text` begins as a number, so that it is judged as a size and not as a card's name."""
    return bool(_SIZE.match(text) or _COMMA.fullmatch(text))


def parse_size(text: str) -> int:
    """Return the bytes of ``8GiB``, ``24GB``, ``512 MiB``.

    >>> parse_size("8GiB"), parse_size("24GB")
    (8589934592, 24000000000)

    Raises SizeError for a number without a unit, an unknown unit, and zero.
    """
    found = _SIZE.match(text)
    if found is None:
        raise SizeError(
            f"{text!r} is not a size: write {_meant(text) or 'a number and a unit, as in 8GiB or 24GB'}"
        )
    number, unit = found.groups()
    if not unit:
        raise SizeError(
            f"{text!r} has no unit: write {text.strip()}GiB (2**30 bytes) or {text.strip()}GB (10**9 bytes)"
        )
    factor = _UNITS.get(unit.lower())
    if factor is None:
        raise SizeError(f"{text!r}: {unit!r} is not a unit; known are B, KiB, MiB, GiB, TiB, KB, MB, GB, TB")
    if len(number.partition(".")[0]) > 18:
        raise SizeError(f"{text!r}: nothing is that large")
    size = int(float(number) * factor)
    if size <= 0:
        raise SizeError(f"{text!r} leaves nothing to judge against: the size must be larger than zero")
    return size


def parse_share(text: str) -> float:
    """Return the fraction that ``8%`` or ``0.08`` names.

    >>> parse_share("8%"), parse_share("0.08")
    (0.08, 0.08)

    Raises SizeError for what is no share of a whole: a number of 1 and more without a percent sign, 100% and more.
    """
    found = _SHARE.match(text)
    share = None if found is None else float(found[1]) / (100 if found[2] else 1)
    if share is None or share >= 1:
        meant = _meant(text) or "8% or 0.08 (less than the whole)"
        raise SizeError(f"{text!r} is not a share: write {meant}")
    return share


def _meant(text: str) -> str | None:
    return f"{text.strip().replace(',', '.')}, with a point" if _COMMA.fullmatch(text) else None
