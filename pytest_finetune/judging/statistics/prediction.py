"""Where the next seed's gain will lie, from the gains of a few seeds on the same rows.

The gain of seed s on row r is ``recipe + seed_s + row_r + rest_sr``. What is asked for is ``recipe + seed_next``: the
gain that the next adapter would have on all rows of this kind. Two things are not known of it: how far one seed lies
from the next, which only the seeds can tell, and how far these rows lie from all others, which all seeds share and no
number of seeds makes smaller. Each has a margin of its own, and both are added as independent errors are, by their
squares (Zou and Donner 2008, Statistics in Medicine 27, "the MOVER"):

- seeds: ``t(k - 1) * sd * sqrt(1 + 1/k)``, the prediction interval of one more of k normal values;
- rows: the distance of the mean gain to the Dirichlet bound of the row means, with which everything here is decided.

The seeds' spread holds the noise of single answers as well, which is why the interval is rather too wide than too
narrow where seeds hardly differ. `benchmarks/statistics.py` has the levels that it holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.judging.statistics.sample import Interval

FEWEST_SEEDS: Final = 2
_HALVINGS: Final = 60


class SeedGains(NamedTuple):
    """The gain of each seed, their mean, and the interval of the next one's."""

    each: tuple[float, ...]
    mean: float
    interval: Interval

    @property
    def spread(self) -> float:
        """How far the best seed lies from the worst."""
        return max(self.each) - min(self.each)


def seed_gains(
    seeds: Sequence[Sequence[float]],
    base: Sequence[float],
    groups: Sequence[str | None] | None,
    alpha: float,
) -> SeedGains:
    """Return the gains of at least two seeds over the base on the same rows; each end of the interval at `alpha`."""
    each = tuple(_mean(scores) - _mean(base) for scores in seeds)
    rows = PairedGain.of(row_means(seeds), base, groups)
    mean, (low, high) = rows.gain, rows.interval(alpha)
    margin = seed_margin(each, alpha)
    reach = (math.hypot(margin, mean - low), math.hypot(margin, high - mean))
    return SeedGains(each, mean, Interval(max(-1.0, mean - reach[0]), min(1.0, mean + reach[1])))


def row_means(seeds: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return each row's mean over the seeds, without float dust, so that equal means are ties."""
    return tuple(round(sum(scores) / len(seeds), 12) for scores in zip(*seeds, strict=True))


def seed_margin(gains: Sequence[float], alpha: float, *, further: float = 1.0) -> float:
    """Return how far one more seed may lie from the mean of these; with ``further=0`` how far their mean may be off."""
    count, middle = len(gains), _mean(gains)
    variance = sum((gain - middle) ** 2 for gain in gains) / (count - 1)
    return student_t(1 - alpha, count - 1) * math.sqrt(variance * (further + 1 / count))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def student_t(level: float, freedom: int) -> float:
    """Return the quantile of Student's t for a level above 0.5, by halving the angle of its closed form.

    Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.

    >>> round(student_t(0.975, 2), 4), round(student_t(0.975, 7), 4)
    (4.3027, 2.3646)
    """
    low, high, wanted = 0.0, math.pi / 2, 2 * level - 1
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < wanted else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """Return the chance that t lies within plus or minus ``sqrt(freedom) * tan(angle)``."""
    odd = freedom % 2
    sine, cosine = math.sin(angle), math.cos(angle)
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for place in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (place - 1) / place
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
