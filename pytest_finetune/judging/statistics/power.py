"""Planning: the smallest gain that a held-out file can show, and how many rows would settle a question.

Everything here is computed for passes and failures on independent rows: with n rows, a true gain g and a
share `discordance` of rows on which the arms differ, fixed and broken rows follow a trinomial
distribution, which is summed exactly. Miller (2024, arXiv 2411.00640) explains why paired evaluations
should be planned like this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from math import ceil, cos, floor, inf, log, pi, sin, sqrt
from typing import Final

from pytest_finetune.judging.statistics.dirichlet import atoms, mean_cdf, mean_quantile
from pytest_finetune.judging.statistics.exact import binomial_pmf, binomial_tail, fewest_fixed
from pytest_finetune.judging.statistics.growing import fewest_fixed_growing
from pytest_finetune.judging.statistics.roots import increasing_root
from pytest_finetune.judging.statistics.sample import Sample, needed_passes

MOST_ROWS: Final = 5000
_SETTLED_FOR = 50
TOO_CLOSE: Final = 0.02
_DEVIATIONS = 4.5
_EXACT_RANGE = 20
_NODES = 6


def chance_to_beat(
    rows: int, gain: float, discordance: float, margin: float, alpha: float, *, grow: bool = False
) -> float:
    """Return P(a gain above zero is demonstrated, and the observed gain is at least `margin`).

    Where the rows `grow`, that is the chance at these rows, as if nobody had looked before.
    """
    needed = (fewest_fixed_growing if grow else fewest_fixed)(alpha, _table_size(rows))
    lead = needed_passes(margin, rows)
    likely = _likely(rows, discordance)
    goals = (max(needed[differing], (lead + differing + 1) // 2) for differing in likely)
    return sum(chance * reached for chance, reached in _chances(rows, gain, discordance, likely, goals))


def chance_to_exclude(rows: int, gain: float, discordance: float, margin: float, alpha: float) -> float:
    """Return P(a gain of `margin` is excluded); above zero that includes being demonstrably worse."""
    likely = _likely(rows, discordance)
    goals = (most + 1 for most in _most_fixed(rows, likely, margin, alpha))
    return sum(chance * (1 - reached) for chance, reached in _chances(rows, gain, discordance, likely, goals))


def _chances(
    rows: int, gain: float, discordance: float, likely: range, goals: Iterable[int]
) -> Iterator[tuple[float, float]]:
    """Yield the chance of each number of differing rows, and the chance that `goal` of them are fixed.

    Goals never fall from one number of differing rows to the next.
    """
    share = min(1.0, max(0.0, (discordance + gain) / (2 * discordance)))
    before, tail = -1, 0.0
    for differing, goal in zip(likely, goals, strict=True):
        if before < 0:
            tail = binomial_tail(goal, differing, share)
        else:  # one differing row more, then a goal that has moved up by a few at most
            tail += share * binomial_pmf(before - 1, differing - 1, share)
            tail -= sum(binomial_pmf(k, differing, share) for k in range(before, goal))
        before = goal
        yield binomial_pmf(differing, rows, discordance), min(1.0, max(0.0, tail))


def _most_fixed(rows: int, likely: range, margin: float, alpha: float) -> Iterator[int]:
    """Yield, for each number of differing rows, how many may be fixed while the bound still excludes the
    margin.

    The border is smooth, and the bound is defined for fractions of rows too: a long range is
    interpolated between a few numbers of differing rows, which changed no chance by more than 1e-6.
    """
    first, last = likely[0], likely[-1]
    if len(likely) <= _EXACT_RANGE or first < max(_EXACT_RANGE, margin * rows):
        most = ceil(max(-1.0, _border(rows, first, margin, alpha))) - 1
        for differing in likely:  # the border rises by at most one row per differing row
            while most < differing and _tail(rows, differing, most + 1, margin) < alpha:
                most += 1
            yield most
        return
    nodes = [(first + last + (last - first) * cos(pi * (i + 0.5) / _NODES)) / 2 for i in range(_NODES)]
    borders: list[float] = []
    for node in nodes:  # the border is nearly a line: each one starts from the last two
        borders.append(_border(rows, node, margin, alpha, _extended(node, nodes, borders)))
    for differing in likely:
        yield min(differing, floor(_interpolated(differing, nodes, borders)))


def _tail(rows: int, differing: float, fixed: float, margin: float) -> float:
    """Return the p-value for "the gain is below the margin"."""
    broken, same = differing - fixed, rows - differing
    return mean_cdf(atoms([(-1.0, fixed + 1), (1.0, broken), (0.0, same)]), -margin)


def _extended(node: float, nodes: Sequence[float], borders: Sequence[float]) -> float | None:
    if len(borders) < 2:
        return None
    (x, before), (y, last) = ((nodes[i], borders[i]) for i in (len(borders) - 2, len(borders) - 1))
    return last + (last - before) * (node - y) / (y - x)


def _border(rows: int, differing: float, margin: float, alpha: float, near: float | None = None) -> float:
    """Return the (fractional) number of fixed rows at which the margin just stops being excluded."""
    goal = sqrt(-2 * log(alpha))

    def excess(fixed: float) -> float:
        tail = _tail(rows, differing, fixed, margin)
        return goal - sqrt(-2 * log(tail)) if tail > 0 else -inf

    if near is not None:
        return increasing_root(excess, near, 0.1, -1.0, differing, close=1e-5)
    start = (differing + margin * rows - goal * sqrt(differing + 1)) / 2
    return increasing_root(excess, start, sqrt(differing + 1) / 4 + 0.5, -1.0, differing, close=1e-5)


def _interpolated(x: float, nodes: Sequence[float], values: Sequence[float]) -> float:
    """Evaluate the polynomial through Chebyshev nodes (barycentric form; Berrut and Trefethen 2004)."""
    weights = [(-1) ** i * sin(pi * (i + 0.5) / len(nodes)) for i in range(len(nodes))]
    above = below = 0.0
    for node, value, weight in zip(nodes, values, weights, strict=True):
        if x == node:
            return value
        above += weight / (x - node) * value
        below += weight / (x - node)
    return above / below


@lru_cache(maxsize=256)
def rows_to_settle(
    gain: float, discordance: float, margin: float, alpha: float, power: float = 0.8, *, grow: bool = False
) -> int | None:
    """Return the smallest n from which on (for 50 further n) the question is settled with chance `power`.

    With a true gain above the margin, "settled" means that it is beaten, below it that it is excluded.
    None: the gain is within two points of the margin, so that no size settles it, or it would take more
    than 5,000 rows.
    """
    if abs(gain - margin) < TOO_CLOSE:
        return None
    chance: Callable[..., float] = chance_to_exclude
    if gain > margin:
        chance = partial(chance_to_beat, grow=grow)

    def enough(rows: int) -> bool:
        return chance(rows, gain, discordance, margin, alpha) >= power

    short, long = 0, _first_guess(gain - margin, discordance)
    while not enough(long):
        if long >= MOST_ROWS:
            return None
        short, long = long, min(MOST_ROWS, long * 3 // 2)
    while long - short > 1:
        middle = (short + long) // 2
        short, long = (short, middle) if enough(middle) else (middle, long)
    candidate, rows = (
        long,
        long,
    )  # the chance is a saw, finer with more rows: go on until the next 50 are enough
    stride = max(1, long // 100)
    while rows < candidate + _SETTLED_FOR:
        rows += stride
        if not enough(rows):
            candidate = rows + 1
    return candidate if candidate <= MOST_ROWS else None


def _first_guess(distance: float, discordance: float) -> int:
    """Return a size that is probably too small, from the normal approximation."""
    return min(MOST_ROWS, max(4, int(6 * discordance / distance**2)))


def smallest_gain(
    rows: int, discordance: Callable[[float], float], alpha: float, power: float = 0.8, *, grow: bool = False
) -> float | None:
    """Return the smallest true gain that is shown with chance `power`; None if even a gain of 1 is not."""

    def enough(gain: float) -> bool:
        return chance_to_beat(rows, gain, max(gain, discordance(gain)), 0.0, alpha, grow=grow) >= power

    if rows < 1 or not enough(1.0):
        return None
    low, high = 0.0, 1.0
    while high - low > 5e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def discordance_before(gain: float, base_rate: float | None = None) -> float:
    """Return the share of rows to expect on which the arms differ, before any answer is known.

    With a base rate the arms are taken as independent given the row's rate; without, half of the rows differ.
    """
    if base_rate is None:
        return max(gain, 0.5)
    tuned = min(1.0, base_rate + gain)
    return max(gain, base_rate * (1 - tuned) + tuned * (1 - base_rate))


def discordance_after(observed: Sample) -> float:
    """Return a cautious share of differing rows: the one-sided 80% upper bound of what was observed.

    Graded differences count with their squares, which for passes and failures is the number of differing
    rows.
    """
    differing = sum(value * value * count for value, count in observed.counts)
    same = observed.n - differing
    bound = -mean_quantile(atoms([(-1.0, differing + 1.0), (0.0, same)]), 0.2)
    return min(1.0, max(abs(observed.mean), bound))


def _likely(rows: int, discordance: float) -> range:
    """Return the numbers of differing rows that matter; what is left out has a chance below 1e-5."""
    spread = _DEVIATIONS * sqrt(rows * discordance * (1 - discordance)) + 4
    center = rows * discordance
    return range(max(0, int(center - spread)), min(rows, int(center + spread) + 1) + 1)


def _table_size(rows: int) -> int:
    """Round up, so that neighbouring sizes share one cached table."""
    return max(64, 1 << (rows - 1).bit_length()) if rows else 64
