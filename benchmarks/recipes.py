"""Simulate recipes: does the interval of the next seed hold its level, and what does it cost to choose a seed where?

    python -P benchmarks/recipes.py [--quick] [--seed N]
    python -P benchmarks/recipes.py --rates 0.5 0.7 --rates 0.4 0.95 --rows 200

The first table counts how often the true gain of one more seed lies outside the interval that was computed from 3, 5
or 8 others; the second how often `decide` keeps a useless adapter that was the best of 8 on development rows, and of
one that was the best of 8 on the held-out rows, which is refused for that reason. Exits with 1 when a stated rate is
exceeded beyond what chance explains, or when the choice on held-out rows does no harm.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import product
from unittest import mock

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.advice import Needed
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import decide
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores
from pytest_finetune.judging.statistics.prediction import seed_gains

Passes = npt.NDArray[np.float64]
SEEDS = (3, 5, 8)
ROWS = (50, 200)
RATES = ((0.02, 0.65), (0.4, 0.9))
SPREADS = (0.0, 0.02, 0.05, 0.1)
KINSHIP = (0.2, 0.8)
OUTSIDE = 0.05
KEPT = 0.025
CANDIDATES, DEVELOPMENT = 8, 40
EXCEEDED: list[str] = []


def passes(rng: np.random.Generator, rates: Sequence[float], rows: int, kinship: float) -> Passes:
    """Draw which rows pass at each rate; `kinship` is how much the arms share a row's difficulty."""
    shared = rng.standard_normal(rows)
    own = rng.standard_normal((len(rates), rows))
    drawn = np.sqrt(kinship) * shared + np.sqrt(1 - kinship) * own
    return np.where(drawn < ndtri(np.asarray(rates))[:, None], 1.0, 0.0)


def missed(
    rng: np.random.Generator, seeds: int, rows: int, rates: tuple[float, float], spread: float, kinship: float
) -> bool:
    """Tell whether one more seed's true gain lies outside the interval of the others."""
    base, recipe = rates
    true = np.clip(recipe + spread * rng.standard_normal(seeds + 1), 0.001, 0.999)
    drawn = passes(rng, [base, *true[:-1]], rows, kinship)
    found = seed_gains(drawn[1:].tolist(), drawn[0].tolist(), None, (1 - 0.95) / 2)
    return not found.interval.low <= true[-1] - base <= found.interval.high


def prediction(
    rng: np.random.Generator, runs: int, sizes: Sequence[int], pairs: Sequence[tuple[float, float]]
) -> Iterator[str]:
    """Print how often the next seed lies outside, in percent; 5.0 is stated."""
    yield "| seeds | rows | base, recipe | " + " | ".join(f"sd {100 * sd:g} points" for sd in SPREADS) + " |"
    yield "|---|---|---|" + "---|" * len(SPREADS)
    for seeds, rows, rates in product(SEEDS, sizes, pairs):
        cells = []
        for spread in SPREADS:
            hits = [sum(missed(rng, seeds, rows, rates, spread, kin) for _ in range(runs)) for kin in KINSHIP]
            for kinship, count in zip(KINSHIP, hits, strict=True):
                what = f"{seeds} seeds, {rows} rows, {rates}, sd {spread}, kinship {kinship}"
                check(what, count, runs, OUTSIDE)
            cells.append(" / ".join(f"{100 * count / runs:.1f}" for count in hits))
        yield f"| {seeds} | {rows} | {rates[0]:.0%}, {rates[1]:.0%} | " + " | ".join(cells) + " |"


def choice(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often the best of several useless adapters is kept, chosen on these rows or on those."""
    yield f"| rows | best of {CANDIDATES} on {DEVELOPMENT} development rows | best of {CANDIDATES} on held-out rows |"
    yield "|---|---|---|"
    for rows in ROWS:
        kept = {"development": 0, "held out": 0}
        with mock.patch(
            "pytest_finetune.judging.decision.rows_needed", return_value=Needed(None, ("not planned",))
        ):
            for _ in range(runs):
                drawn = passes(rng, [0.5] * (CANDIDATES + 1), rows + DEVELOPMENT, 0.5)
                held_out, development = drawn[:, :rows], drawn[:, rows:]
                for where, scored in (("development", development), ("held out", held_out)):
                    best = 1 + int(np.argmax(scored[1:].sum(axis=1)))
                    kept[where] += _kept(held_out[0], held_out[best])
        check(f"chosen on development rows, {rows} rows", kept["development"], runs, KEPT)
        if kept["held out"] <= _most(runs, KEPT):
            EXCEEDED.append(f"{rows} rows: choosing on the held-out rows did no harm, so this shows nothing")
        shares = (f"{100 * count / runs:.1f}%" for count in kept.values())
        yield f"| {rows} | " + " | ".join(shares) + " |"


def _kept(base: Passes, tuned: Passes) -> bool:
    """Decide as a run would."""
    arms = {"baseline": tuple(base.tolist()), "tuned": tuple(tuned.tolist())}
    rule = Rule("task", primary=True, min_gain=0.0)
    scores = {"task": Scores("task", tuple(map(str, range(len(base)))), (), arms)}
    case = Case((rule,), scores, DecisionDefaults(), 1, tuple(arms), answers_differ=True, delta_nonzero=True)
    return decide(case).keep


def check(what: str, hits: int, runs: int, stated: float) -> None:
    """Note an error rate that lies above the stated one beyond chance."""
    if hits > _most(runs, stated):
        EXCEEDED.append(f"{what}: {hits} of {runs}, stated {stated:.1%}")


def _most(runs: int, stated: float) -> int:
    """Return the most hits of so many that a rate as stated explains; more has a chance of 1 in 100,000."""
    hits = int(runs * stated)
    while hits < runs and betaincinv(hits, runs - hits + 1, 1e-5) <= stated:
        hits += 1
    return hits - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rates", type=float, nargs=2, action="append", help="base and recipe; no choice is shown"
    )
    parser.add_argument("--rows", type=int, action="append")
    asked = parser.parse_args(arguments)
    rng, runs = np.random.default_rng(asked.seed), 100 if asked.quick else 500
    pairs = tuple((base, recipe) for base, recipe in asked.rates or RATES)
    outside = (
        f"The next seed outside its 95% interval, in percent of {runs} (kinship {KINSHIP[0]} / {KINSHIP[1]})"
    )
    tables = {outside: prediction(rng, runs, asked.rows or ROWS, pairs)}
    if not asked.rates:
        tables[f"A useless adapter kept, of {2 * runs}"] = choice(rng, 2 * runs)
    for title, lines in tables.items():
        started = time.perf_counter()
        print(f"\n{title}\n")
        for line in lines:
            print(line, flush=True)
        print(f"\n({time.perf_counter() - started:.0f} s)")
    for excess in EXCEEDED:
        print(f"EXCEEDED: {excess}")
    return 1 if EXCEEDED else 0


if __name__ == "__main__":
    sys.exit(main())
