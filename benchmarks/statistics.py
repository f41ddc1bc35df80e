"""Simulate the whole decision rule and count how often it is wrong; prints the tables of docs/decision.md.

    python -m benchmarks.statistics [--quick] [--seed N]

Every simulated run goes through `decide` itself, with answers of a base, a tuned and a prompt-only arm,
guards, rows that share groups, a noisy base and several looks. Only the number of rows that would settle an
open question is left out: it touches no verdict. What is said of more rows is drawn in `benchmarks/more_rows.py`,
recipes of several seeds in `benchmarks/recipes.py`. Exits with 1 when a stated error rate is exceeded beyond what
chance explains. The results are kept in benchmarks/results/statistics.txt.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from unittest import mock

import numpy as np
import scipy
from scipy.special import ndtr

from benchmarks.more_rows import DIFFERING, STEP, growing, growing_sessions, learning_curves
from benchmarks.simulated import ALL, EXCEEDED, GROUPED, LEVEL, SIZES, World, check
from pytest_finetune.judging.advice import Needed
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import decide
from pytest_finetune.judging.statistics.exact import mcnemar_p
from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.judging.statistics.power import chance_to_beat, chance_to_exclude

WORLDS: Mapping[str, tuple[str, World]] = {
    "useless adapter": ("keep", World()),
    "useless, base at 90%": ("keep", World(0.9, 0.9)),
    "useless, min_gain 0": ("keep", World(min_gain=0.0)),
    "useless, groups of 4": ("keep", World(**GROUPED)),  # type: ignore[arg-type]
    "useless, noisy rows": ("keep", World(unstable=0.2)),
    "useless, everything on": ("keep", World(prompted=0.5, **ALL)),  # type: ignore[arg-type]
    "useless, look 3": ("keep", World(looks=3)),
    "the prompt does as well": ("keep", World(0.2, 0.7, 0.7, **ALL)),  # type: ignore[arg-type]
    "10 points worse": ("keep", World(0.5, 0.4)),
    "10 points better": ("discard", World(0.5, 0.6)),
    "5 points better, as asked": ("discard", World(0.5, 0.55)),
    "5 better, everything on": ("discard", World(0.5, 0.55, 0.45, **ALL)),  # type: ignore[arg-type]
    "30 better, 10 guards": ("discard", World(0.4, 0.7, guards=(0.0,) * 10)),
    "30 better, everything on": ("discard", World(0.4, 0.7, 0.5, **ALL)),  # type: ignore[arg-type]
    "30 better, a guard loses 20": ("keep", World(0.4, 0.7, guards=(0.2, 0.0))),
}
# What the rule promises at the first look; a lost guard is caught with power, not with a level.
STATED = {"keep": LEVEL, "discard": LEVEL}
UNBOUNDED = {"30 better, a guard loses 20"}


def whole_rule(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print keep / iterate / discard of whole sessions; hold the wrong verdict against its stated rate."""
    yield "| world | wrong | " + " | ".join(f"n={n}" for n in SIZES) + " |"
    yield "|---|---|" + "---|" * len(SIZES)
    for name, (wrong, world) in WORLDS.items():
        cells = []
        for n in world.sizes:
            counts = Counter(decide(world.session(rng, n)).verdict for _ in range(runs))
            cells.append(
                "/".join(f"{100 * counts[verdict] / runs:.0f}" for verdict in ("keep", "iterate", "discard"))
            )
            if name not in UNBOUNDED:
                check(f"{name}, n={n}: {wrong}", counts[wrong], runs, STATED[wrong])
        yield f"| {name} | {wrong} | " + " | ".join(cells) + " |"


def exact_table() -> Iterator[str]:
    """Print keep / iterate / discard of the primary rule alone, summed over every possible outcome."""
    yield "| true gain, differing, min_gain | " + " | ".join(f"n={n}" for n in (20, 50, 100, 200, 400)) + " |"
    yield "|---|" + "---|" * 5
    for gain, differing, margin in (
        (0, 0.3, 0),
        (0, 0.3, 0.1),
        (0.05, 0.3, 0.1),
        (0.1, 0.2, 0.1),
        (0.2, 0.3, 0.1),
    ):
        cells = []
        for n in (20, 50, 100, 200, 400):
            keep = 100 * chance_to_beat(n, gain, differing, margin, LEVEL)
            discard = 100 * chance_to_exclude(n, gain, differing, margin, LEVEL)
            cells.append(f"{keep:.0f}/{100 - keep - discard:.0f}/{discard:.0f}")
        yield f"| {gain}, {differing}, {margin} | " + " | ".join(cells) + " |"


def rivals(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often other rules call a useless adapter better, with groups and without."""
    yield "| useless adapter called better by | n | rows alone | groups of 4 | groups of 10 |"
    yield "|---|---|---|---|---|"
    names = ("observed gain above 0.02", "unpaired z-test", "row-level McNemar", "this rule")
    for n in (50, 100, 200):
        rates: dict[str, list[float]] = {name: [] for name in names}
        for size in (1, 4, 10):
            world = World(group_size=size, within=0.6 if size > 1 else 0.0, min_gain=0.0, kinship=0.3)
            called = np.array([_called(world.session(rng, n)) for _ in range(runs)])
            for name, rate in zip(names, called.mean(axis=0), strict=True):
                rates[name].append(float(rate))
            check(f"this rule, groups of {size}, n={n}", int(called[:, 3].sum()), runs, LEVEL)
        for name in names:
            yield f"| {name} | {n} | " + " | ".join(f"{100 * rate:.1f}%" for rate in rates[name]) + " |"


def _called(case: Case) -> tuple[bool, bool, bool, bool]:
    scores = case.scores["task"]
    base, tuned = (np.array(scores.arms[arm], dtype=float) for arm in ("baseline", "tuned"))
    gain, n = float((tuned - base).mean()), len(base)
    pooled = (base.mean() + tuned.mean()) / 2
    spread = np.sqrt(2 * pooled * (1 - pooled) / n)
    unpaired = bool(spread > 0 and ndtr(-gain / spread) <= LEVEL)
    row_level = mcnemar_p(int((tuned > base).sum()), int((tuned < base).sum())) <= LEVEL
    clustered = PairedGain.of(tuned.tolist(), base.tolist(), scores.groups or None)
    return gain > 0.02, unpaired, row_level, clustered.p <= LEVEL


def many_looks(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often any of 20 useless adapters, judged on one file, is called better."""
    yield "| 20 useless adapters on one file of | never paid for | paid for |"
    yield "|---|---|---|"
    for n in (50, 200):
        unpaid = paid = 0
        for _ in range(runs):
            shared = rng.standard_normal(n)
            arms = [np.sqrt(0.5) * shared + np.sqrt(0.5) * rng.standard_normal(n) < 0 for _ in range(21)]
            p = [mcnemar_p(int((arm & ~arms[0]).sum()), int((arms[0] & ~arm).sum())) for arm in arms[1:]]
            unpaid += min(p) <= LEVEL
            paid += any(value <= Levels(look=k).claim for k, value in enumerate(p, 1))
        check(f"20 looks, n={n}", paid, runs, 2 * LEVEL)
        yield f"| {n} rows | {unpaid / runs:.1%} | {paid / runs:.1%} |"


def graded_scores(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often a graded rule of mean zero is called better: many small gains and a rare collapse."""
    yield "| graded, true gain 0 | n | sign-flip test | this rule | true loss of 0.1 wrongly excluded |"
    yield "|---|---|---|---|---|"
    for name, share in (("1 in 20 collapses", 0.05), ("1 in 5 collapses", 0.2), ("symmetric", 0.5)):
        for n in (10, 20, 50, 100):
            flips = bound = excluded = 0
            for _ in range(runs):
                collapsed = rng.random(n) < share
                gaps = np.where(collapsed, -0.9 * (1 - share), 0.9 * share) + np.round(
                    rng.uniform(-0.05, 0.05, n), 2
                )
                ours = np.round(gaps, 3)
                pair = PairedGain.of(np.maximum(ours, 0).tolist(), np.maximum(-ours, 0).tolist())
                worse = PairedGain.of(np.maximum(ours - 0.1, 0).tolist(), np.maximum(0.1 - ours, 0).tolist())
                flip = pair.claim.p_sign_flip()
                flips += flip is not None and flip <= LEVEL
                bound += pair.p <= LEVEL
                excluded += worse.holds(0.1, LEVEL)
            check(f"graded, {name}, n={n}", bound, runs, LEVEL)
            check(f"graded loss excluded, {name}, n={n}", excluded, runs, LEVEL)
            yield f"| {name} | {n} | {flips / runs:.1%} | {bound / runs:.1%} | {excluded / runs:.1%} |"


def cluster_bounds(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often the bound of clustered rows wrongly excludes the true gain."""
    yield "| groups | n | useless called better | true gain of 10 excluded | true loss of 10 excluded |"
    yield "|---|---|---|---|---|"
    for size, within in ((4, 0.3), (10, 0.6), (20, 0.9)):
        for n in (60, 120, 240):
            counts = np.zeros(3)
            for _ in range(runs):
                level, gaining, losing = (
                    _clustered(World(0.5, tuned, group_size=size, within=within), rng, n)
                    for tuned in (0.5, 0.6, 0.4)
                )
                counts += level.p <= LEVEL, gaining.excludes(0.1, LEVEL), losing.holds(0.1, LEVEL)
            for what, hits in zip(("beats", "excludes", "holds"), counts, strict=True):
                check(f"groups of {size}, n={n}: {what}", int(hits), runs, LEVEL)
            cells = " | ".join(f"{hits / runs:.1%}" for hits in counts)
            yield f"| of {size}, sharing {within:.0%} | {n} | {cells} |"


def uneven_groups(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print what the sign-flip of groups does not promise: one row won in most groups, five lost in a few."""
    yield "| groups of 5 rows, true gain 0: 1 row won in 5 of 6, 5 lost in the others | called better |"
    yield "|---|---|"
    for count in (10, 20, 40):
        called = 0
        for _ in range(runs):
            lost = rng.random(count) < 1 / 6
            gaps = np.where(lost[:, None], -np.ones(5), np.eye(5)[0]).ravel()
            groups = [f"g{i // 5}" for i in range(5 * count)]
            called += (
                PairedGain.of(np.maximum(gaps, 0).tolist(), np.maximum(-gaps, 0).tolist(), groups).p <= LEVEL
            )
        yield f"| {count} | {called / runs:.1%} |"


def _clustered(world: World, rng: np.random.Generator, n: int) -> PairedGain:
    scores = world.session(rng, n).scores["task"]
    ours, theirs = ([float(value or 0) for value in scores.arms[arm]] for arm in ("tuned", "baseline"))
    return PairedGain.of(ours, theirs, scores.groups)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every table; return 1 when a stated rate is exceeded."""
    parser = argparse.ArgumentParser(description="Simulate the whole decision rule.")
    parser.add_argument("--quick", action="store_true", help="a sixth of the runs")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    rng, runs = np.random.default_rng(chosen.seed), 100 if chosen.quick else 600
    print(f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}")
    started = time.process_time()
    unplanned = Needed(None, ("not planned",))
    with mock.patch("pytest_finetune.judging.decision.rows_needed", return_value=unplanned):
        for title, table in _tables(rng, runs):
            print(f"\n{title}\n", flush=True)
            for line in table:
                print(line, flush=True)
    print(f"\n{time.process_time() - started:.0f} s of processor time")
    for line in EXCEEDED:
        print(f"EXCEEDED: {line}")
    return 1 if EXCEEDED else 0


def _tables(rng: np.random.Generator, runs: int) -> Iterator[tuple[str, Iterator[str]]]:
    percent = "keep/iterate/discard in percent"
    yield f"The primary rule alone, exact: {percent}", exact_table()
    yield f"Whole sessions, {runs} runs a cell: {percent}", whole_rule(rng, runs)
    yield f"Other rules, {2 * runs} runs a cell", rivals(rng, 2 * runs)
    yield f"Looks, {runs} files", many_looks(rng, runs)
    yield f"Graded scores, {runs} runs a cell", graded_scores(rng, runs)
    yield f"Groups, {runs} runs a cell", cluster_bounds(rng, runs)
    yield f"Learning curves of four points, {runs} runs a cell", learning_curves(rng, runs)
    yield f"Groups that change unevenly, {runs} runs a cell", uneven_groups(rng, runs)
    title = f"Rows added in steps of {STEP} until a gain is called, {100 * DIFFERING:.0f}% of rows differing"
    yield f"{title}, {20 * runs} runs a row", growing(rng, 20 * runs)
    yield f"The same with whole decisions, {runs} runs a row", growing_sessions(rng, runs)


if __name__ == "__main__":
    sys.exit(main())
