"""Evidence that may be looked at whenever rows were added: the e-value of a gain, and the rows that it still lacks.

Somebody bets on each row, at fair odds: a stake of 1 grows by the share `bet` of itself where the arm fixes the row,
and loses as much where the arm breaks it. Without a gain no bet grows on average, so the chance that the capital ever
reaches 1 / alpha is at most alpha, however often one looks (Ville 1939). The stake is spread evenly over all bets from
0 to 1, which is the beta-binomial mixture over chances above one half (Robbins 1970).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil, comb, exp, fsum, lgamma, log, log1p
from typing import Final

from pytest_finetune.judging.statistics.exact import binomial_pmf
from pytest_finetune.judging.statistics.levels import Levels

MOST_EVIDENCE: Final = 1e12
"""No level asks for more; what lies above is not told apart."""
MOST_MORE: Final = 5000

_BETS: Final = tuple((i + 0.5) / 128 for i in range(128))


def e_value(fixed: int, broken: int) -> Fraction:
    """Return the e-value of "the arm fixes more rows than it breaks", as an exact fraction.

    It is the likelihood of the outcomes under a chance drawn evenly from one half to 1, over that under one half.

    >>> e_value(8, 0), e_value(7, 0), e_value(0, 0)
    (Fraction(511, 9), Fraction(255, 8), Fraction(1, 1))
    """
    changed = fixed + broken
    below = term = 1
    for k in range(1, fixed + 1):
        term = term * (changed + 2 - k) // k
        below += term
    return Fraction(below, (changed + 1) * comb(changed, fixed))


@lru_cache(maxsize=64)
def fewest_fixed_growing(alpha: float, most: int) -> tuple[int, ...]:
    """Return, for d = 0 to `most` discordant rows, the fewest fixed for e >= 1 / alpha (d + 1: none is enough).

    >>> fewest_fixed_growing(0.025, 10)
    (1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10)
    """
    goal, needed = -log(alpha), [1]
    k, tail = 1, 0.25  # tail = P(X > k) for X ~ Binomial(d + 1, 1/2): here d = 1
    for changed in range(1, most + 1):
        while k <= changed and _log_e(k, changed, tail) < goal - 1e-12:
            k += 1
            tail = max(0.0, tail - binomial_pmf(k, changed + 1, 0.5))
        needed.append(k)
        tail += 0.5 * binomial_pmf(k, changed + 1, 0.5)
    return tuple(needed)


def _log_e(fixed: int, changed: int, tail: float) -> float:
    ways = lgamma(changed + 1) - lgamma(fixed + 1) - lgamma(changed - fixed + 1)
    return (changed + 1) * log(2) + log1p(-min(tail, 1 - 1e-16)) - log(changed + 1) - ways


@dataclass(frozen=True, slots=True)
class Growing:
    """How a gain is claimed where rows may be added: at which levels, and how many rows each earlier look had."""

    levels: Levels
    ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a gain: the e-value now, the highest of any look, what is needed, and about how many rows more.

    `more` is None where the gain is shown, and where no number up to MOST_MORE shows it at the observed rate.
    """

    e: float
    highest: float
    needed: float
    rows: int
    more: int | None = None

    @classmethod
    def of(cls, gaps: Sequence[float], groups: Sequence[str | None] | None, growing: Growing) -> Evidence:
        """Weigh the paired differences in the order in which their rows were added."""
        needed = 1 / growing.levels.claim
        bets: list[float] = []
        values: list[float] = []
        for batch in batches(gaps, groups, growing.ends):
            bets.extend(batch)
            values.append(_evidence(bets))
        e, highest = values[-1], max(values)
        more = None if highest >= needed else _more_rows(bets, len(gaps), log(needed))
        return cls(e, highest, needed, len(gaps), more)

    @property
    def shown(self) -> bool:
        """Whether a gain is demonstrated: once reached, it stays so."""
        return self.highest >= self.needed

    @property
    def words(self) -> str:
        """Say how much evidence there is, and how much is needed."""
        before = f" (it was {_figure(self.highest)})" if self.shown and self.e < self.needed else ""
        return f"e = {_figure(self.e)} after {self.rows:,} rows{before}; {_figure(self.needed)} are needed"

    def as_json(self) -> dict[str, object]:
        """Return the record's form."""
        return {name: getattr(self, name) for name in ("e", "highest", "needed", "rows", "more")}


def batches(
    gaps: Sequence[float], groups: Sequence[str | None] | None, ends: Sequence[int]
) -> list[tuple[float, ...]]:
    """Return what was bet on between one look and the next: each row, or the mean of each group that is new.

    Rows that join a group which was judged before are not independent of what was seen, so nothing is bet on them.
    """
    found, seen, start = [], set[Hashable](), 0
    for end in (*ends, len(gaps)):
        if groups is None:
            found.append(tuple(gaps[start:end]))
        else:
            members: dict[Hashable, list[float]] = {}
            for i in range(start, end):
                name: Hashable = i if groups[i] is None else groups[i]
                if name not in seen:
                    members.setdefault(name, []).append(gaps[i])
            seen |= members.keys()
            found.append(tuple(fsum(rows) / len(rows) for rows in members.values()))
        start = end
    return found


def _evidence(bets: Sequence[float]) -> float:
    counts = Counter(bets)
    if counts.keys() <= {-1.0, 0.0, 1.0}:
        value = e_value(counts[1.0], counts[-1.0])
        return float(value) if value < MOST_EVIDENCE else MOST_EVIDENCE
    return min(MOST_EVIDENCE, exp(min(700.0, _mean_log(_log_capitals(counts), 1.0))))


def _log_capitals(counts: Counter[float]) -> tuple[float, ...]:
    """Return the logarithm of what each bet has made of its stake."""
    return tuple(fsum(count * log1p(bet * gap) for gap, count in counts.items()) for bet in _BETS)


def _mean_log(capitals: Sequence[float], times: float) -> float:
    """Return the logarithm of the mean capital, had the same come so many times."""
    top = times * max(capitals)
    return top + log(fsum(exp(times * one - top) for one in capitals) / len(capitals))


def _more_rows(bets: Sequence[float], rows: int, goal: float) -> int | None:
    """Return about how many rows more would be enough, if they bring what the rows so far brought."""
    if not rows:
        return None
    capitals, most = _log_capitals(Counter(bets)), 1 + MOST_MORE / rows
    if _mean_log(capitals, most) < goal:
        return None
    low, high = 1.0, most  # convex and 0 at 0: once above the goal it stays there
    while (high - low) * rows > 0.25:
        middle = (low + high) / 2
        low, high = (low, middle) if _mean_log(capitals, middle) >= goal else (middle, high)
    return max(1, ceil((high - 1) * rows))


def _figure(value: float) -> str:
    if value >= 1_000_000:
        return "more than a million"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
