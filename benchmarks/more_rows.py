"""Simulate what is said where rows are added: to judge by until a gain is settled, and to train on (a learning curve).

The tables are printed by `benchmarks/statistics.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from scipy.special import ndtri

from benchmarks.simulated import EXCEEDED, GROUPED, LEVEL, World, check
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import decide
from pytest_finetune.judging.growth import Growth
from pytest_finetune.judging.statistics.exact import fewest_fixed
from pytest_finetune.judging.statistics.growing import fewest_fixed_growing
from pytest_finetune.judging.statistics.learning_curve import LEVEL as CURVE_LEVEL
from pytest_finetune.judging.statistics.learning_curve import Point, chance_of_rows, forecast
from pytest_finetune.judging.statistics.power import rows_to_settle

STEP, MOST = 20, 1000
DIFFERING = 0.3


def growing(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often a gain is called where 20 rows are added until it is, and the price beside a fixed number.

    Fixed is the number of rows at which the exact test has 80% power (at no gain, and where that is more: 1,000).
    """
    yield (
        "| true gain | rows if fixed | exact test, fixed | e-value at those rows | e-value by 1,000 rows | "
        "rows until called, mean | the exact test at every growth |"
    )
    yield "|---|---|---|---|---|---|---|"
    weighed, exact = (np.array(table(LEVEL, 2 * MOST)) for table in (fewest_fixed_growing, fewest_fixed))
    ends = np.arange(STEP, MOST + 1, STEP)
    for gain in (-0.05, 0.0, 0.05, 0.1, 0.2):
        settles = rows_to_settle(gain, DIFFERING, 0.0, LEVEL) if gain > 0 else MOST
        rows = MOST if settles is None else min(settles, MOST)
        chances = ((DIFFERING + gain) / 2, (DIFFERING - gain) / 2)
        drawn = rng.random((runs, MOST))
        fixed = (drawn < chances[0]).cumsum(axis=1)
        differing = (drawn < chances[0] + chances[1]).cumsum(axis=1)
        called = (fixed >= weighed[differing])[:, ends - 1]
        misused = (fixed >= exact[differing])[:, ends - 1].any(axis=1)
        once = fixed[:, rows - 1] >= exact[differing[:, rows - 1]]
        ever = called.any(axis=1)
        until = np.where(ever, ends[called.argmax(axis=1)], MOST)
        if gain <= 0:
            check(f"rows are added, true gain {gain}: called", int(ever.sum()), runs, LEVEL)
        if gain == 0 and misused.mean() <= 2 * LEVEL:
            EXCEEDED.append("the exact test at every growth was expected to break its level, and did not")
        by_then = called[:, ends <= rows].any(axis=1).mean()
        cells = (once.mean(), by_then, ever.mean())
        yield (
            f"| {100 * gain:.0f} | {rows} | "
            + " | ".join(f"{share:.1%}" for share in cells)
            + f" | {until.mean():.0f} | {misused.mean():.1%} |"
        )


def growing_sessions(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often whole decisions keep, where rows are added in steps of 20 up to 200 until one is settled."""
    yield "| world | wrong | kept | discarded | still open |"
    yield "|---|---|---|---|---|"
    for name, wrong, world in (
        ("useless adapter", "keep", World(min_gain=0.0)),
        ("useless, groups of 4", "keep", World(min_gain=0.0, **GROUPED)),  # type: ignore[arg-type]
        ("useless, prompt and guards", "keep", World(prompted=0.5, guards=(0.0, 0.0), min_gain=0.0)),
        ("20 points better", "discard", World(0.5, 0.7)),
    ):
        counts = Counter(_grown_until_settled(world.session(rng, 200)) for _ in range(runs))
        shares = (f"{counts[verdict] / runs:.1%}" for verdict in ("keep", "discard", "iterate"))
        if wrong == "keep":
            check(f"rows are added, {name}: keep", counts[wrong], runs, LEVEL)
        yield f"| {name} | {wrong} | " + " | ".join(shares) + " |"


def _grown_until_settled(whole: Case) -> str:
    """Return the first verdict that is settled; the last where none is."""
    ends: tuple[int, ...] = ()
    for rows in range(STEP, 201, STEP):
        scores = {
            name: replace(
                given,
                rows=given.rows[:rows],
                groups=given.groups[:rows],
                arms={arm: column[:rows] for arm, column in given.arms.items()},
                noise=tuple(run[:rows] for run in given.noise),
            )
            for name, given in whole.scores.items()
        }
        verdict = decide(replace(whole, scores=scores, looks=1 + len(ends), growth=Growth(1, ends))).verdict
        if verdict != "iterate":
            return verdict
        ends = (*ends, rows)
    return "iterate"


# A curve: the rate at all rows, what the last doubling brought, by how much more each one before it brought, and the
# spread that a training brings of its own. The prior of the band knows of none of these.
CURVES: Mapping[str, tuple[float, float, float, float]] = {
    "flat": (0.6, 0.0, 1.0, 0.0),
    "flat, trainings spread by 3": (0.6, 0.0, 1.0, 0.03),
    "saturating": (0.8, 0.02, 3.0, 0.01),
    "rising": (0.6, 0.08, 1.5, 0.01),
    "rising, trainings spread by 3": (0.6, 0.08, 1.5, 0.03),
    "straight": (0.55, 0.1, 1.0, 0.02),
}
DOUBLINGS = (3, 2, 1, 0, -1)


def learning_curves(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often the next point of a curve lies outside its band, and what is said of twice the rows."""
    yield "| curve | development rows | next point outside | gain outside | said to rise | said to be flat |"
    yield "|---|---|---|---|---|---|"
    for name, (rate, rise, slowing, spread) in CURVES.items():
        behind = [
            rise * sum(slowing**step for step in range(d)) if d >= 0 else -rise / slowing for d in DOUBLINGS
        ]
        for n in (40, 100, 300):
            outside = wrong = rises = flat = 0
            for _ in range(runs):
                shared, own = rng.standard_normal(n), rng.standard_normal((5, n))
                rates = rate - np.array(behind) + spread * rng.standard_normal(5)
                passes = (
                    np.sqrt(0.7) * shared + np.sqrt(0.3) * own < ndtri(np.clip(rates, 0.001, 0.999))[:, None]
                )
                scores = passes.astype(float).tolist()
                points = [
                    Point(100 * 2 ** (3 - d), float(np.mean(one)))
                    for d, one in zip(DOUBLINGS, scores, strict=True)
                ]
                found = forecast(points[:4], chance_of_rows(scores[:4]))
                assert found is not None
                outside += not found.score_low <= points[4].rate <= found.score_high
                wrong += not found.low <= rise / slowing <= found.high
                rises += found.rises
                flat += found.flat
            check(f"curve {name}, n={n}: outside its band", outside, runs, 1 - CURVE_LEVEL)
            check(f"curve {name}, n={n}: gain outside its span", wrong, runs, 1 - CURVE_LEVEL)
            if rise == 0:
                check(f"curve {name}, n={n}: said to rise", rises, runs, (1 - CURVE_LEVEL) / 2)
            cells = " | ".join(f"{100 * hits / runs:.1f}%" for hits in (outside, wrong, rises, flat))
            yield f"| {name} | {n} | {cells} |"
