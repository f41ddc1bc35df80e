r"""What twice as many training rows would bring: a saturating law over nested subsets, and what it leaves open.

The law is ``f(n) = a - b n^-c`` with ``b, c >= 0``, written by what it says: with `rise`, what the last doubling
brought, and `slowing` ``s = 2^c``, by how much more each doubling before it brought, the next one brings ``rise / s``.
A law has three numbers and a curve four points, so no one law is fitted: every law on a grid counts by how well it
explains the points (a posterior), and what is said of the next doubling is a quantile over all of them. A point lies
off its law by chance of the rows, which is known from how often rows change their score between points, and by that of
the training, which is not, so that it is one of the numbers on the grid. `benchmarks/statistics.py` holds the band to
its level.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import numpy.typing as npt

LEVEL: Final = 0.9
"""How often the next point lies in its band, at least; also how sure a gain is that is said to be one."""
_BAND: Final = 0.96
"""What the ends of a span leave between them: more than is stated, as no true curve is drawn from this grid."""
FEWEST: Final = 3
"""Fewer points than this bend into any law."""
WORTH: Final = 0.01
"""A rise below this is no news: it is one row of a hundred."""
LITTLE: Final = 0.03
"""Where no more than this can be expected, more rows are not advised."""

_RISES: Final = (0.3, 31)  # the largest, and how many from nothing up to it
_SLOWINGS: Final = (1.0, 4.0, 9)
_SPREADS: Final = (0.08, 9)
_USUAL_RISE: Final = 0.08
_USUAL_SPREAD: Final = 0.04
"""What is expected before the points are seen: both fall off exponentially, and a slowing counts by its inverse."""


class Point(NamedTuple):
    """A training on so many rows, and its mean score on the development rows."""

    rows: int
    rate: float


class Forecast(NamedTuple):
    """What twice the rows would bring, with its span, and the band in which the score of that training would lie.

    The gain is `at_least` so much for sure, and for sure `at_most` so much, each by itself.
    """

    gain: float
    low: float
    high: float
    at_least: float
    at_most: float
    score: float
    score_low: float
    score_high: float

    @property
    def rises(self) -> bool:
        """Whether a gain worth speaking of is shown."""
        return self.at_least >= WORTH

    @property
    def flat(self) -> bool:
        """Whether no more than a little can be expected."""
        return self.at_most < LITTLE


def chance_of_rows(curve: Sequence[Sequence[float]], groups: Sequence[str | None] = ()) -> float:
    """Return the variance of one point by the chance of its rows, from how they change between neighbouring points.

    `curve` has a point's scores on all rows in each of its lines; rows of one group count together.
    """
    count = len(curve[0])
    names = [group or f"row {at}" for at, group in enumerate(groups or [None] * count)]
    found = []
    for one, other in itertools.pairwise(curve):
        changes = [b - a for a, b in zip(one, other, strict=True)]
        mean = sum(changes) / count
        sums: dict[str, float] = {}
        for name, change in zip(names, changes, strict=True):
            sums[name] = sums.get(name, 0.0) + change - mean
        found.append(sum(total * total for total in sums.values()) / count**2 / 2)
    return max(sum(found) / len(found), (0.5 / count) ** 2)


def forecast(points: Sequence[Point], chance: float) -> Forecast | None:
    """Say what twice the rows of the last point would bring; None for too few points.

    `chance` is the variance of a point by the chance of its rows.
    """
    import numpy as np

    if len({point.rows for point in points}) < FEWEST:
        return None
    rise, slowing, spread = (
        axis.ravel()
        for axis in np.meshgrid(
            np.linspace(0, *_RISES), np.geomspace(*_SLOWINGS), np.linspace(0, *_SPREADS), indexing="ij"
        )
    )
    most = max(point.rows for point in points)
    away = np.array([most / point.rows for point in points])
    behind = rise[:, None] * _doublings(away, slowing)
    level = np.array([point.rate for point in points]) + behind  # what each point says of the last one
    variance = chance + spread**2
    last = level.mean(axis=1)
    misfit = ((level - last[:, None]) ** 2).sum(axis=1) / variance
    likely = -0.5 * misfit - 0.5 * (len(points) - 1) * np.log(variance)
    usual = rise / _USUAL_RISE + spread / _USUAL_SPREAD + np.log(slowing)
    weight = np.exp(likely - likely.max() - usual)
    gain = np.minimum(rise / slowing, np.maximum(1 - last, 0))
    low, middle, high = (_quantile(gain, weight, share) for share in _shares(_BAND))
    at_least, _, at_most = (_quantile(gain, weight, share) for share in _shares(LEVEL))
    deviation = np.sqrt(variance * (1 + 1 / len(points)))
    band = [_mixture_quantile(last + gain, deviation, weight, share) for share in _shares(_BAND)]
    score_low, score, score_high = (min(max(value, 0.0), 1.0) for value in band)
    return Forecast(middle, low, high, at_least, at_most, score, score_low, score_high)


def _shares(level: float) -> tuple[float, float, float]:
    return (1 - level) / 2, 0.5, (1 + level) / 2


def _doublings(away: npt.NDArray[Any], slowing: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return, a line for each law, how many last rises each point lies behind the last one."""
    import numpy as np

    bent = np.maximum(np.log2(slowing), 1e-6)[:, None]  # a straight line is the limit
    found: npt.NDArray[Any] = (away[None, :] ** bent - 1) / (2**bent - 1)
    return found


def _quantile(values: npt.NDArray[Any], weight: npt.NDArray[Any], share: float) -> float:
    import numpy as np

    order = np.argsort(values)
    below = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(below, share * below[-1])])


def _mixture_quantile(
    mean: npt.NDArray[Any], deviation: npt.NDArray[Any], weight: npt.NDArray[Any], share: float
) -> float:
    """Return a quantile of a mixture of normal distributions, by halving; what weighs nothing is left out."""

    kept = weight > weight.max() * 1e-6
    mean, deviation, weight = mean[kept], deviation[kept], weight[kept] / weight[kept].sum()
    low, high = float((mean - 6 * deviation).min()), float((mean + 6 * deviation).max())
    for _ in range(40):
        middle = (low + high) / 2
        below = float(weight @ _normal((middle - mean) / deviation))
        low, high = (middle, high) if below < share else (low, middle)
    return (low + high) / 2


def _normal(z: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the distribution function of the normal distribution, to 2e-7 (Abramowitz and Stegun, 26.2.17)."""
    import numpy as np

    t = 1 / (1 + 0.2316419 * np.abs(z))
    tail = (
        np.exp(-z * z / 2)
        / np.sqrt(2 * np.pi)
        * t
        * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    )
    found: npt.NDArray[Any] = np.where(z > 0, 1 - tail, tail)
    return found
