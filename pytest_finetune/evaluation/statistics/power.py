"""Planning: the smallest gain that a held-out file can show, and how many rows would settle a question.

Everything here is computed for passes and failures on independent rows: with n rows, a true gain g and a
share `discordance` of rows on which the arms differ, fixed and broken rows follow a trinomial
distribution, which is summed exactly. Miller (2024, arXiv 2411.00640) explains why paired evaluations
should be planned like this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, cos, floor, inf, log, pi, sin, sqrt
from typing import Final

from pytest_finetune.evaluation.statistics.dirichlet import atoms, mean_cdf, mean_quantile
from pytest_finetune.evaluation.statistics.exact import binomial_pmf, binomial_tail, fewest_fixed
from pytest_finetune.evaluation.statistics.levels import Levels
from pytest_finetune.evaluation.statistics.roots import increasing_root
from pytest_finetune.evaluation.statistics.sample import Sample, needed_passes

MOST_ROWS: Final = 5000
_SETTLED_FOR = 50
TOO_CLOSE: Final = 0.02
_DEVIATIONS = 4.5
_EXACT_RANGE = 20
_NODES = 8


def chance_to_beat(rows: int, gain: float, discordance: float, margin: float, alpha: float) -> float:
    """Return P(a gain above zero is demonstrated, and the observed gain is at least `margin`)."""
    needed = fewest_fixed(alpha, _table_size(rows))
    lead = needed_passes(margin, rows)
    share = _fixed_share(gain, discordance)
    chance, goal, tail = 0.0, None, 0.0
    for differing in _likely(rows, discordance):
        before, goal = goal, max(needed[differing], (lead + differing + 1) // 2)
        if before is None:
            tail = binomial_tail(goal, differing, share)
        else:  # one differing row more, then a goal that has moved up by at most a few
            tail += share * binomial_pmf(before - 1, differing - 1, share)
            tail -= sum(binomial_pmf(k, differing, share) for k in range(before, goal))
        chance += binomial_pmf(differing, rows, discordance) * max(tail, 0.0)
    return chance


def chance_to_exclude(rows: int, gain: float, discordance: float, margin: float, alpha: float) -> float:
    """Return P(a gain of `margin` is excluded); above zero that includes being demonstrably worse."""
    share = _fixed_share(gain, discordance)
    likely = _likely(rows, discordance)
    chance = 0.0
    for differing, most in zip(likely, _most_fixed(rows, likely, margin, alpha), strict=True):
        at_most = 1.0 - binomial_tail(most + 1, differing, share)
        chance += binomial_pmf(differing, rows, discordance) * at_most
    return chance


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
    borders = [_border(rows, node, margin, alpha) for node in nodes]
    for differing in likely:
        yield min(differing, floor(_interpolated(differing, nodes, borders)))


def _tail(rows: int, differing: float, fixed: float, margin: float) -> float:
    """Return the p-value for "the gain is below the margin"."""
    broken, same = differing - fixed, rows - differing
    return mean_cdf(atoms([(-1.0, fixed + 1), (1.0, broken), (0.0, same)]), -margin)


def _border(rows: int, differing: float, margin: float, alpha: float) -> float:
    """Return the (fractional) number of fixed rows at which the margin just stops being excluded."""
    goal = sqrt(-2 * log(alpha))

    def excess(fixed: float) -> float:
        tail = _tail(rows, differing, fixed, margin)
        return goal - sqrt(-2 * log(tail)) if tail > 0 else -inf

    start = (differing + margin * rows - goal * sqrt(differing + 1)) / 2
    return increasing_root(excess, start, sqrt(differing + 1) / 4 + 0.5, -1.0, differing, close=1e-6)


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
    gain: float, discordance: float, margin: float, alpha: float, power: float = 0.8
) -> int | None:
    """Return the smallest n from which on (for 50 further n) the question is settled with chance `power`.

    With a true gain above the margin, "settled" means that it is beaten, below it that it is excluded.
    None: the gain is within two points of the margin, so that no size settles it, or it would take more
    than 5,000 rows.
    """
    if abs(gain - margin) < TOO_CLOSE:
        return None
    chance = chance_to_beat if gain > margin else chance_to_exclude

    def enough(rows: int) -> bool:
        return chance(rows, gain, discordance, margin, alpha) >= power

    short, long = 0, 8
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


def smallest_gain(
    rows: int, discordance: Callable[[float], float], alpha: float, power: float = 0.8
) -> float | None:
    """Return the smallest true gain that is shown with chance `power`; None if even a gain of 1 is not."""

    def enough(gain: float) -> bool:
        return chance_to_beat(rows, gain, max(gain, discordance(gain)), 0.0, alpha) >= power

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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a held-out file of this size can show."""

    rows: int
    levels: Levels
    min_gain: float
    power: float
    smallest: float | None
    discordance: float
    chance: float
    enough_rows: int | None

    @property
    def possible(self) -> bool:
        """Whether any result could lead to keep."""
        return self.rows >= self.levels.fewest_rows

    @property
    def opens(self) -> bool:
        """Whether a true gain of `min_gain` would probably be demonstrated."""
        return self.smallest is not None and self.smallest <= max(self.min_gain, 1e-9)

    @property
    def line(self) -> str:
        """One sentence for the record and the terminal."""
        look = f"look {self.levels.look}, alpha {self.levels.claim:.2g}"
        if not self.possible:
            needed = self.levels.fewest_rows
            return (
                f"keep impossible: {_rows(self.rows)} cannot demonstrate any gain ({look}); "
                f"at least {needed} are needed, even if every one is fixed"
            )
        if self.smallest is None:
            return (
                f"{_rows(self.rows)} show no gain in {self.power:.0%} of runs ({look}), however large it is: "
                f"write more held-out rows"
            )
        differing = f"{self.discordance:.0%} of rows differing"
        return (
            f"{_rows(self.rows)} show a gain of {100 * self.smallest:.1f} points or more "
            f"in {self.power:.0%} of runs ({look}, {differing})"
        )

    @property
    def warning(self) -> str | None:
        """Say that a gain of `min_gain` would probably not be shown, and what would help; else None."""
        if self.opens or not self.possible:
            return None if self.opens else self.line
        rows = f"about {self.enough_rows:,} rows" if self.enough_rows else f"more than {MOST_ROWS:,} rows"
        return (
            f"{self.line}; min_gain is {100 * self.min_gain:.1f} points, and a true gain of that size "
            f"would be demonstrated in {self.chance:.0%} of runs: write held-out rows ({rows} for {self.power:.0%}) "
            f"or ask for a larger gain"
        )


def plan(
    rows: int,
    min_gain: float,
    levels: Levels | None = None,
    power: float = 0.8,
    discordance: float | None = None,
    base_rate: float | None = None,
) -> Plan:
    """Plan an evaluation; without an observed `discordance` it follows from the base's rate."""
    levels = levels or Levels()

    def differing(gain: float) -> float:
        return max(gain, discordance) if discordance is not None else discordance_before(gain, base_rate)

    smallest = smallest_gain(rows, differing, levels.claim, power)
    target = max(min_gain, 0.0)
    chance = chance_to_beat(rows, target, differing(target), 0.0, levels.claim) if rows else 0.0
    opens = smallest is not None and smallest <= min_gain
    enough = None if opens else rows_to_settle(target, differing(target), 0.0, levels.claim, power)
    at = differing(smallest if smallest is not None else 1.0)
    return Plan(rows, levels, min_gain, power, smallest, at, chance, enough)


def _rows(n: int) -> str:
    return "1 held-out row" if n == 1 else f"{n:,} held-out rows"


def _fixed_share(gain: float, discordance: float) -> float:
    return min(1.0, max(0.0, (discordance + gain) / (2 * discordance)))


def _likely(rows: int, discordance: float) -> range:
    """Return the numbers of differing rows that matter; what is left out has a chance below 1e-5."""
    spread = _DEVIATIONS * sqrt(rows * discordance * (1 - discordance)) + 4
    center = rows * discordance
    return range(max(0, int(center - spread)), min(rows, int(center + spread) + 1) + 1)


def _table_size(rows: int) -> int:
    """Round up, so that neighbouring sizes share one cached table."""
    return max(64, 1 << (rows - 1).bit_length()) if rows else 64
