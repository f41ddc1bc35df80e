"""Exact binomial tails, and the one-sided exact McNemar test built on them; standard library only."""

from __future__ import annotations

from functools import lru_cache
from math import comb, exp, lgamma, log, log1p


@lru_cache(maxsize=4096)
def fair_tail(successes: int, trials: int) -> float:
    """Return P(X >= successes) for X ~ Binomial(trials, 1/2).

    The first term is an exact ratio of integers, the others follow by recursion: the relative error stays
    below 1e-12 up to 10,000 trials, also far out in the tail.
    """
    if successes <= 0:
        return 1.0
    if successes > trials:
        return 0.0
    if 2 * successes < trials + 1:
        return 1.0 - fair_tail(trials - successes + 1, trials)
    term = comb(trials, successes) / (1 << trials)
    total = 0.0
    for k in range(successes, trials + 1):
        total += term
        term *= (trials - k) / (k + 1)
        if term < total * 1e-17:
            break
    return total


def mcnemar_p(fixed: int, broken: int) -> float:
    """Return the one-sided exact p-value for "the arm fixes more rows than it breaks".

    Rows on which both arms agree carry no information on the direction; without discordant rows p is 1.
    McNemar (1947), Psychometrika 12, 153-157.

    >>> mcnemar_p(6, 0)
    0.015625
    >>> mcnemar_p(0, 0)
    1.0
    """
    return fair_tail(fixed, fixed + broken)


def binomial_pmf(successes: int, trials: int, rate: float) -> float:
    """Return P(X = successes) for X ~ Binomial(trials, rate), by logarithms (relative error about 1e-11)."""
    if not 0 <= successes <= trials:
        return 0.0
    if rate <= 0 or rate >= 1:
        return float(successes == (0 if rate <= 0 else trials))
    ways = lgamma(trials + 1) - lgamma(successes + 1) - lgamma(trials - successes + 1)
    return exp(ways + successes * log(rate) + (trials - successes) * log1p(-rate))


def binomial_tail(successes: int, trials: int, rate: float) -> float:
    """Return P(X >= successes) for X ~ Binomial(trials, rate), to about 1e-11 absolute."""
    if successes <= 0:
        return 1.0
    if successes > trials:
        return 0.0
    if successes <= trials * rate:  # sum the smaller side
        return max(0.0, 1.0 - binomial_tail(trials - successes + 1, trials, 1 - rate))
    term = binomial_pmf(successes, trials, rate)
    total = 0.0
    odds = rate / (1 - rate) if rate < 1 else 0.0
    for k in range(successes, trials + 1):
        total += term
        term *= (trials - k) / (k + 1) * odds
        if term <= total * 1e-17:
            break
    return min(1.0, total)


@lru_cache(maxsize=64)
def fewest_fixed(alpha: float, most: int) -> tuple[int, ...]:
    """Return, for d = 0 to `most` discordant rows, the fewest fixed for p <= alpha (d + 1: none is enough).

    >>> fewest_fixed(0.025, 8)
    (1, 2, 3, 4, 5, 6, 6, 7, 8)
    """
    needed = [1]
    k, tail = 1, 0.0  # tail = P(X >= k) for X ~ Binomial(trials, 1/2)
    for trials in range(1, most + 1):
        tail += 0.5 * binomial_pmf(k - 1, trials - 1, 0.5)
        while tail > alpha and k <= trials:
            tail = max(0.0, tail - binomial_pmf(k, trials, 0.5))
            k += 1
        needed.append(k)
    return tuple(needed)
