"""Find where an increasing function crosses zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

_NEAREST: Final = 1e-13


def increasing_root(
    distance: Callable[[float], float],
    start: float,
    stride: float,
    low: float,
    high: float,
    close: float = 1e-11,
) -> float:
    """Return x in [low, high] with ``abs(distance(x)) < close``, or the end that comes nearest to it.

    `distance` increases and may be minus infinity on the left; `start` and `stride` say where the root
    probably is.
    """
    left, right = _bracket(distance, min(max(start, low), high), stride, low, high)
    return _narrow(distance, left, right, close)


def _bracket(
    distance: Callable[[float], float], start: float, stride: float, low: float, high: float
) -> tuple[float, float]:
    """Return a < b around the root of an increasing function, within [low, high]."""
    left = right = start
    while distance(left) > 0 and left > low:
        right, left = left, max(low, left - stride)
        stride *= 2
    while distance(right) < 0 and right < high:
        left, right = right, min(high, right + stride)
        stride *= 2
    return left, right


def _narrow(distance: Callable[[float], float], left: float, right: float, close: float) -> float:
    """Find the root of an increasing function between two points (Illinois variant of regula falsi)."""
    below, above = distance(left), distance(right)
    kept = 0
    while right - left > _NEAREST:
        if math.isinf(below):
            middle = (left + right) / 2
        else:
            middle = right - above * (right - left) / (above - below)
            middle = min(max(middle, left), right)
        found = distance(middle)
        if abs(found) < close or middle in {left, right}:
            return middle
        if found > 0:
            right, above = middle, found
            below = below / 2 if kept == 1 else below
            kept = 1
        else:
            left, below = middle, found
            above = above / 2 if kept == -1 else above
            kept = -1
    return (left + right) / 2
