"""Rows that share a group are not independent: what they are worth, and a test that flips whole groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Final

FEWEST_CLUSTERS: Final = 6
"""Fewer clusters with a net change than this support no claim."""

_CELLS = 2e7  # grid cells times clusters that one convolution may touch


def effective_rows(sizes: Iterable[int]) -> float:
    """Return Kish's effective number of rows, ``(sum m)^2 / sum m^2``, for clusters of m rows each.

    Kish (1965), Survey Sampling. Six clusters of equal size are worth six rows.
    """
    sizes = tuple(sizes)
    squares = sum(size * size for size in sizes)
    return sum(sizes) ** 2 / squares if squares else 0.0


@lru_cache(maxsize=256)
def sign_flip_p(sums: tuple[float, ...]) -> float:
    """Return the exact one-sided p-value of the total of `sums` when the sign of each is a fair coin.

    Whole numbers are convolved exactly. Graded sums are first rounded to a decimal grid: rounding is
    symmetric about zero, so the test on the rounded sums is exact as well.
    """
    import numpy as np

    steps = [step for step in _on_grid(sums) if step]
    if not steps:
        return 1.0
    # The total of signed sums is twice the total of those with a plus sign, less the total of all sizes.
    sizes = sorted(map(abs, steps))
    chance = np.zeros(sum(sizes) + 1)
    chance[0] = 1.0
    reach = 0
    for size in sizes:
        shifted = 0.5 * chance[: reach + 1]
        chance[: reach + 1] *= 0.5
        chance[size : size + reach + 1] += shifted
        reach += size
    plus = (reach + sum(steps)) // 2
    return min(1.0, float(chance[plus:].sum()))


def _on_grid(sums: Sequence[float]) -> list[int]:
    if all(value == int(value) for value in sums):
        return [int(value) for value in sums]
    room = _CELLS / len(sums) / (2 * sum(map(abs, sums)) + 1)
    digits = 4
    while digits > 1 and 10**digits > room:
        digits -= 1
    unit = Decimal(10) ** -digits
    return [int((Decimal(str(value)) / unit).to_integral_value()) for value in sums]
