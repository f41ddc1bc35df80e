"""Scores of one arm, or paired differences of two arms, and what may be said about their mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import ceil, floor
from typing import NamedTuple

from pytest_finetune.judging.statistics.clusters import effective_rows, sign_flip_p
from pytest_finetune.judging.statistics.dirichlet import Atoms, atoms, mean_cdf, mean_quantile
from pytest_finetune.judging.statistics.exact import mcnemar_p

_MOST_DISTINCT = 129
_GRID = 64
_MOST_FLIPS = 1000


class Interval(NamedTuple):
    """A two-sided interval; each side is a one-sided bound."""

    low: float
    high: float


class Cluster(NamedTuple):
    """The rows of one group: their total and their number."""

    total: float
    rows: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Values in [-1, 1] as counts of each distinct value; `clusters` where rows share groups, else None."""

    counts: tuple[tuple[float, int], ...]
    clusters: tuple[Cluster, ...] | None = None

    @classmethod
    def of(cls, values: Sequence[float], groups: Sequence[str | None] | None = None) -> Sample:
        """Count the values; a row whose group is None is a cluster of its own."""
        counts = tuple(sorted(Counter(values).items()))
        return cls(counts, None if groups is None else _clusters(values, groups))

    @property
    def n(self) -> int:
        """The number of rows."""
        return sum(count for _, count in self.counts)

    @property
    def units(self) -> int:
        """The number of independent units: rows, or clusters."""
        return self.n if self.clusters is None else len(self.clusters)

    @property
    def effective(self) -> float:
        """The number of independent rows that these rows are worth."""
        return float(self.n) if self.clusters is None else effective_rows(rows for _, rows in self.clusters)

    @property
    def changed_clusters(self) -> int:
        """The number of clusters with a net change."""
        return 0 if self.clusters is None else sum(1 for total, _ in self.clusters if total)

    @property
    def binary(self) -> bool:
        """Whether every value is a whole number (a pass, a failure, a row fixed or broken)."""
        return all(value in (-1, 0, 1) for value, _ in self.counts)

    @property
    def total(self) -> Decimal:
        """The exact sum of the values as they are written in decimal."""
        return sum((Decimal(str(value)) * count for value, count in self.counts), Decimal(0))

    @property
    def mean(self) -> float:
        """The mean, for display; compare with `reaches`."""
        return float(self.total / self.n)

    def reaches(self, margin: float) -> bool:
        """Tell whether the mean is at least `margin`, in exact decimal arithmetic."""
        return self.total >= Decimal(str(margin)) * self.n

    def negated(self) -> Sample:
        """Return the sample with every sign turned (the arms exchanged)."""
        flipped = tuple(sorted((-value, count) for value, count in self.counts))
        if self.clusters is None:
            return Sample(flipped)
        return Sample(flipped, tuple(Cluster(-total, rows) for total, rows in self.clusters))

    def lower(self, alpha: float, worst: float = -1.0) -> float:
        """Return the lower bound of the true mean at level `alpha`; `worst` is the lowest possible value.

        Dirichlet (Gaffke) bound: the alpha-quantile of the mean under random weights with mass 1 on each
        row and on one pseudo-row at `worst`. Gaffke (2005); Learned-Miller and Thomas (2019, arXiv
        1905.06208). For passes and failures it is the bound of Clopper and Pearson (1934).
        """
        return mean_quantile(self._weighted(worst), alpha)

    def upper(self, alpha: float, best: float = 1.0) -> float:
        """Return the upper bound of the true mean at level `alpha`; `best` is the highest possible value."""
        return -self.negated().lower(alpha, -best)

    def doubt(self, claim: float, worst: float = -1.0) -> float:
        """Return the p-value for "the mean exceeds `claim`": below alpha where `lower(alpha)` exceeds it."""
        return mean_cdf(self._weighted(worst), claim)

    def p_gain(self) -> float:
        """Return the one-sided p-value for a mean above zero.

        Binary rows: exact McNemar. Graded rows: the Dirichlet bound at zero. Clusters: exact sign-flip of the
        cluster totals.
        """
        if self.clusters is not None:
            return sign_flip_p(tuple(total for total, _ in self.clusters if total))
        if self.binary:
            count = dict(self.counts)
            return mcnemar_p(count.get(1, 0), count.get(-1, 0))
        return self.doubt(0.0)

    def p_sign_flip(self) -> float | None:
        """Return the sign-flip p-value that is shown beside a graded rule; None where it says nothing new.

        It tests exchangeable signs, not the mean, so nothing is decided with it. Above 1,000 changed
        rows it is left out.
        """
        changed = tuple(value for value, count in self.counts if value for _ in range(count))
        if self.binary or self.clusters is not None or len(changed) > _MOST_FLIPS:
            return None
        return sign_flip_p(changed)

    def _weighted(self, worst: float) -> Atoms:
        share = self.effective / self.n
        rows = self.counts if len(self.counts) <= _MOST_DISTINCT else tuple(_on_grid(self.counts))
        return atoms([*((value, count * share) for value, count in rows), (worst, 1.0)])


def differences(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Subtract score by score; 0.3 - 0.1 is 0.2, so that ties stay ties and no float dust decides."""
    return tuple(_gap(a, b) for a, b in zip(ours, theirs, strict=True))


def needed_passes(rate: float, rows: int) -> int:
    """Return the fewest passes that are at least `rate` of the rows, in exact decimal arithmetic.

    >>> needed_passes(0.07, 100), needed_passes(0.95, 20)
    (7, 19)
    """
    return ceil(Decimal(str(rate)) * rows)


def _gap(a: float, b: float) -> float:
    if a in (0, 1) and b in (0, 1):
        return float(a - b)
    return float(Decimal(str(a)) - Decimal(str(b)))


def _clusters(values: Sequence[float], groups: Sequence[str | None]) -> tuple[Cluster, ...]:
    """Add up each group; graded scores in decimal, so that 0.1 + 0.2 - 0.3 is no change."""
    members: dict[object, list[float]] = {}
    for i, (value, group) in enumerate(zip(values, groups, strict=True)):
        members.setdefault(i if group is None else group, []).append(value)
    whole = all(value in (-1, 0, 1) for value in set(values))
    total = sum if whole else _decimal_sum
    return tuple(Cluster(float(total(rows)), len(rows)) for rows in members.values())


def _decimal_sum(values: Sequence[float]) -> float:
    return float(sum((Decimal(str(value)) for value in values), Decimal(0)))


def _on_grid(counts: tuple[tuple[float, int], ...]) -> Iterator[tuple[float, float]]:
    """Share each row between its two neighbours on a grid of 1/64, in proportion to their nearness.

    That keeps the mean and widens the bound by less than 0.0001; it keeps thousands of distinct scores fast.
    """
    for value, count in counts:
        below = floor(value * _GRID)
        nearness = value * _GRID - below
        yield below / _GRID, count * (1 - nearness)
        yield (below + 1) / _GRID, count * nearness
