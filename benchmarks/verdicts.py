"""Simulate adapters that learnt nothing but a format, and count how often one is kept.

Prints the tables of docs/decision.md::

    python -P benchmarks/verdicts.py [--quick] [--seed N]

A decision about passes and failures depends on the rows alone by which the tuned model differs from each opponent, so
those counts are decided once, by the same contests as `decide` has them; a test holds both against each other on
random sessions. Where the base does not speak the task's format it scores nothing, which is the hardest case: only the
commonest training label stands between an adapter and a keep. Exits with 1 when a stated rate is exceeded beyond what
chance explains.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.comparison import BASE, TUNED, Contest
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores, Table

Labels = npt.NDArray[np.int64]  # a run in each line, a row in each column
Passes = npt.NDArray[np.bool_]
Answer = Callable[[np.random.Generator, Labels, Labels], Labels]

LEVEL = 0.025
LOSS_ALLOWED = 0.03
TRAINING_ROWS = 400
UNSTABLE = 0.05
LABELS = (2, 3, 4, 8, 12)
SIZES = (10, 20, 50, 100, 200, 400)
BLIND = 100
PRIMARY, GUARDS, DEFAULTS = Rule("label", primary=True), (Rule("polite"), Rule("short")), DecisionDefaults()
MARGINS = {"majority": 0.0}
OPPONENTS = (BASE, "prompted", "constrained", "majority")
EXCEEDED: list[str] = []


def constant(rng: np.random.Generator, gold: Labels, training: Labels, nth: int = 0) -> Labels:
    """Say one training label to everything: the commonest, or the one that is `nth` in number."""
    counts = (training[:, :, None] == np.arange(training.max() + 1)).sum(axis=1)
    said = np.argsort(-counts, axis=1, kind="stable")[:, nth]
    return np.broadcast_to(said[:, None], gold.shape)


def format_only(rng: np.random.Generator, gold: Labels, training: Labels) -> Labels:
    """Say the label of any training row."""
    return np.take_along_axis(training, rng.integers(0, training.shape[1], gold.shape), axis=1)


def noisy_constant(rng: np.random.Generator, gold: Labels, training: Labels) -> Labels:
    """Say the commonest training label to nine in ten, any training row's label to the others."""
    stray = rng.random(gold.shape) < 0.1
    return np.where(stray, format_only(rng, gold, training), constant(rng, gold, training))


def right_on(share: float) -> Answer:
    """Return an adapter that knows the label on a share of the questions and guesses elsewhere."""

    def answer(rng: np.random.Generator, gold: Labels, training: Labels) -> Labels:
        return np.where(rng.random(gold.shape) < share, gold, format_only(rng, gold, training))

    return answer


def unreadable(rng: np.random.Generator, gold: Labels, training: Labels) -> Labels:
    """Say nothing that can be read."""
    return np.full_like(gold, -1)


WORTHLESS: Mapping[str, Answer] = {
    "always the commonest label": constant,
    "always another label": partial(constant, nth=1),
    "the commonest label, one in ten at random": noisy_constant,
    "the format, any label": format_only,
}
BASES: Mapping[str, Answer] = {
    "knows 20%": right_on(0.2),
    "guesses": format_only,
    "says nothing readable": unreadable,
}


@dataclass(frozen=True)
class Sessions:
    """Many sessions of one kind: what passes in each arm, a session in each line.

    `again` is a second run of the base, `guards` holds what the base and the tuned model pass of each guard.
    """

    arms: Mapping[str, Passes]
    again: Passes | None = None
    guards: Sequence[tuple[Passes, Passes]] = ()
    look: int = 1

    def case(self, run: int) -> Case:
        """Return one session as `decide` takes it."""
        rows = tuple(map(str, range(self.arms[TUNED].shape[1])))

        def scores(name: str, arms: Mapping[str, Passes], *noise: Passes) -> Scores:
            given = {arm: _column(passes[run]) for arm, passes in arms.items()}
            return Scores(name, rows, (), given, noise=tuple(_column(passes[run]) for passes in noise))

        found = [scores(PRIMARY.name, self.arms, *([] if self.again is None else [self.again]))]
        for rule, (base, tuned) in zip(GUARDS, self.guards, strict=False):
            found.append(scores(rule.name, {BASE: base, TUNED: tuned}))
        return Case(
            (PRIMARY, *GUARDS[: len(self.guards)]),
            {one.name: one for one in found},
            DEFAULTS,
            self.look,
            tuple(self.arms),
            margins=MARGINS,
            answers_differ=True,
            delta_nonzero=True,
        )

    def kept(self, opponents: Collection[str] = OPPONENTS) -> Passes:
        """Tell which sessions keep the adapter, against some of the opponents."""
        noisy = None if self.again is None else self.arms[BASE] != self.again
        kept = np.ones(len(self.arms[TUNED]), dtype=bool)
        for arm in self.arms.keys() & set(opponents):
            counted = _differing(self.arms[TUNED], self.arms[arm], noisy)
            n, look = self.arms[arm].shape[1], self.look
            kept &= [_contest(PRIMARY, arm, n, look, tuple(line)).beats for line in counted]
        for rule, (base, tuned) in zip(GUARDS, self.guards, strict=False):
            counted, n = _differing(tuned, base, None), base.shape[1]
            kept &= [not _contest(rule, BASE, n, self.look, tuple(line)).worse for line in counted]
        return kept


def _column(passes: Passes) -> tuple[float, ...]:
    return tuple(passes.astype(float).tolist())


def _differing(tuned: Passes, other: Passes, noisy: Passes | None) -> list[list[int]]:
    """Return, for each session, the rows fixed and broken, and those of them that are noisy."""
    found = [tuned & ~other, other & ~tuned]
    of_them = [] if noisy is None else [one & noisy for one in found]
    counts: list[list[int]] = np.stack([one.sum(axis=1) for one in (*found, *of_them)], axis=1).tolist()
    return counts


@cache
def _contest(rule: Rule, against: str, n: int, look: int, counts: tuple[int, ...]) -> Contest:
    """Set the tuned arm against an opponent from which it differs on so many rows."""
    fixed, broken, fixed_noisy, broken_noisy = (*counts, 0, 0)[:4]
    same = n - fixed - broken
    noisy = (
        [i < fixed_noisy for i in range(fixed)] + [i < broken_noisy for i in range(broken)] + [False] * same
    )
    arms = {
        TUNED: (1.0,) * fixed + (0.0,) * (broken + same),
        against: (0.0,) * fixed + (1.0,) * broken + (0.0,) * same,
    }
    margin = MARGINS.get(against, DEFAULTS.min_gain) if rule.primary else 0.0
    table = Table(rule, tuple(map(str, range(n))), arms, None, tuple(noisy), ())
    return Contest(table, against, margin, rule.levels(DEFAULTS, look))


def sessions(
    rng: np.random.Generator, runs: int, n: int, labels: int, skew: float, adapter: Answer, base: Answer
) -> Sessions:
    """Draw sessions: training and held-out labels of one distribution, and what four arms answer."""
    gold, training = _drawn(rng, runs, n, labels, skew)
    answers = {BASE: base, "prompted": base, "majority": constant, TUNED: adapter}
    return Sessions({arm: answer(rng, gold, training) == gold for arm, answer in answers.items()})


def everything_on(
    rng: np.random.Generator, runs: int, n: int, labels: int, skew: float, adapter: Answer, look: int
) -> Sessions:
    """Draw sessions with every opponent, two guards, and rows to which a model gives any label in each run anew.

    The base says nothing readable, alone it speaks no format; prompted it says any training label, under constrained
    decoding any label.
    """
    gold, training = _drawn(rng, runs, n, labels, skew)
    shaky = rng.random(gold.shape) < UNSTABLE

    def run(said: Labels) -> Passes:
        passes: Passes = np.where(shaky, format_only(rng, gold, training), said) == gold
        return passes

    nothing = unreadable(rng, gold, training)
    arms = {
        BASE: run(nothing),
        "prompted": run(format_only(rng, gold, training)),
        "constrained": run(rng.integers(0, labels, gold.shape)),
        "majority": constant(rng, gold, training) == gold,
        TUNED: run(adapter(rng, gold, training)),
    }
    guards = [(rng.random(gold.shape) < 0.9, rng.random(gold.shape) < 0.9) for _ in GUARDS]
    return Sessions(arms, run(nothing), guards, look)


def _drawn(rng: np.random.Generator, runs: int, n: int, labels: int, skew: float) -> tuple[Labels, Labels]:
    weights = np.arange(1, labels + 1, dtype=float) ** -skew
    both = rng.choice(labels, (runs, n + TRAINING_ROWS), p=weights / weights.sum())
    return both[:, :n], both[:, n:]


def false_keeps(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often a worthless adapter is kept, with the commonest label as an opponent and without."""
    yield _head("worthless adapter | labels", f" without the opponent, n={BLIND} |")
    whole: dict[str, npt.NDArray[np.float64]] = {}
    for name, adapter in WORTHLESS.items():
        lines = []
        for labels in LABELS:
            for skew, word in ((0.0, "even"), (1.0, "skewed")):
                rates = []
                for n in SIZES:
                    kept = int(sessions(rng, runs, n, labels, skew, adapter, unreadable).kept().sum())
                    check(f"{name}, {labels} labels ({word}), n={n}", kept, runs, LEVEL)
                    rates.append(kept / runs)
                blind = sessions(rng, runs, BLIND, labels, skew, adapter, unreadable)
                lines.append([*rates, float(blind.kept((BASE, "prompted")).mean())])
                yield f"| {name} | {labels}, {word} | {_percent(rates)} | {lines[-1][-1]:.0%} |"
        whole[name] = np.array(lines)
    yield ""
    yield _head("worthless adapter", f" without the opponent, n={BLIND} |")
    for name, cells in whole.items():
        *rates, alone = cells.mean(axis=0)
        yield f"| {name} | {_percent(rates)} | {alone:.0%} |"


def everything(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often a worthless adapter is kept with all opponents, two guards, noisy rows and several looks."""
    yield _head("worthless, everything on | look")
    for name, adapter in WORTHLESS.items():
        for look in (1, 2, 3):
            rates = []
            for n in SIZES:
                kept = 0
                for labels in LABELS:
                    found = everything_on(rng, runs, n, labels, 0.0, adapter, look).kept()
                    check(
                        f"{name}, everything on, {labels} labels, look {look}, n={n}",
                        int(found.sum()),
                        runs,
                        LEVEL,
                    )
                    kept += int(found.sum())
                rates.append(kept / runs / len(LABELS))
            yield f"| {name} | {look} | {_percent(rates)} |"


def power_lost(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often a good adapter is kept without and with the trivial opponent.

    Where the base knows something, the opponent may cost three points at most. Where it only guesses it is itself the
    same opponent once more. Where it says nothing readable, beating it was never a result: the loss is the point.
    """
    yield _head("the base | the adapter knows | labels")
    for word, base in BASES.items():
        for share in (0.3, 0.5, 0.8):
            for labels in LABELS:
                cells = []
                for n in SIZES:
                    found = sessions(rng, runs, n, labels, 0.0, right_on(share), base)
                    before, after = found.kept((BASE, "prompted")), found.kept()
                    if word == "knows 20%":
                        lost = int((before & ~after).sum())
                        check(f"power, {share:.0%} known, {labels} labels, n={n}", lost, runs, LOSS_ALLOWED)
                    cells.append(f"{before.mean():.0%} to {after.mean():.0%}")
                yield f"| {word} | {share:.0%} | {labels} | " + " | ".join(cells) + " |"


def _head(first: str, last: str = "") -> str:
    columns = first.count("|") + 1 + len(SIZES) + bool(last)
    return f"| {first} | " + " | ".join(f"n={n}" for n in SIZES) + f" |{last}\n" + "|---" * columns + "|"


def _percent(rates: Sequence[float]) -> str:
    return " | ".join(f"{rate:.1%}" for rate in rates)


def check(what: str, hits: int, runs: int, stated: float) -> None:
    """Note a rate whose 99.9% lower bound lies above what is stated."""
    lower = betaincinv(hits, runs - hits + 1, 0.001) if hits > 0 else 0.0
    if lower > stated:
        EXCEEDED.append(f"{what}: {hits / runs:.1%} of {runs} runs, stated {stated:.1%}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every table; return 1 when a stated rate is exceeded."""
    parser = argparse.ArgumentParser(description="Simulate adapters that learnt nothing but a format.")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    rng, runs = np.random.default_rng(chosen.seed), 20 if chosen.quick else 600
    started = time.process_time()
    for title, table in (
        (f"Worthless adapters kept, {runs} runs a cell", false_keeps(rng, runs)),
        (
            f"Worthless adapters kept with everything on, {len(LABELS) * runs} runs a cell",
            everything(rng, runs),
        ),
        (f"Good adapters kept without and with the opponent, {runs} runs a cell", power_lost(rng, runs)),
    ):
        print(f"\n{title}\n", flush=True)
        for line in table:
            print(line, flush=True)
    print(f"\n{time.process_time() - started:.0f} s of one core", file=sys.stderr)
    for line in EXCEEDED:
        print(f"EXCEEDED: {line}")
    return 1 if EXCEEDED else 0


if __name__ == "__main__":
    sys.exit(main())
