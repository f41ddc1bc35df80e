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
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.agreement import FEWEST_LABELS, Checked
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
JUDGE_RIGHT, JUDGE_LEANS, JUDGE_WAVERS, LABELLED = 0.8, 0.1, 0.15, 100
PRIMARY, GUARDS, DEFAULTS = Rule("label", primary=True), (Rule("polite"), Rule("short")), DecisionDefaults()
JUDGED = Rule("label", primary=True, judge=True)
MARGINS = {"majority": 0.0}
OPPONENTS = (BASE, "prompted", "constrained", "majority")
ORDER = OPPONENTS[::-1]  # the hardest to beat first: what loses to it needs no further look
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

    `again` is a second run of the base, `guards` holds what the base and the tuned model pass of each guard. Where a
    judge says what passes, `people` holds what is right, of which the first rows are labelled, and `wavers` the rows on
    which it contradicts itself.
    """

    arms: Mapping[str, Passes]
    again: Passes | None = None
    guards: Sequence[tuple[Passes, Passes]] = ()
    look: int = 1
    people: Mapping[str, Passes] | None = None
    wavers: Passes | None = None

    @property
    def primary(self) -> Rule:
        """The rule that decides."""
        return PRIMARY if self.people is None else JUDGED

    def case(self, run: int) -> Case:
        """Return one session as `decide` takes it."""
        rows = tuple(map(str, range(self.arms[TUNED].shape[1])))
        labels = {
            arm: {row: bool(right[run, int(row)]) for row in rows[:LABELLED]}
            for arm, right in (self.people or {}).items()
        }
        wavers = () if self.wavers is None else np.flatnonzero(self.wavers[run])

        def scores(name: str, arms: Mapping[str, Passes], *noise: Passes, **judged: Any) -> Scores:
            given = {arm: _column(passes[run]) for arm, passes in arms.items()}
            runs = tuple(_column(passes[run]) for passes in noise)
            return Scores(name, rows, (), given, noise=runs, **judged)

        contradicted = frozenset(map(str, wavers))
        noise = [] if self.again is None else [self.again]
        found = [scores(PRIMARY.name, self.arms, *noise, labels=labels, contradicted=contradicted)]
        for rule, (base, tuned) in zip(GUARDS, self.guards, strict=False):
            found.append(scores(rule.name, {BASE: base, TUNED: tuned}))
        return Case(
            (self.primary, *GUARDS[: len(self.guards)]),
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
        n = self.arms[TUNED].shape[1]
        noisy = None if self.again is None else self.arms[BASE] != self.again
        if self.wavers is not None:
            noisy = self.wavers if noisy is None else noisy | self.wavers
        kept = np.full(len(self.arms[TUNED]), self.people is None or n >= FEWEST_LABELS)
        for arm in sorted(self.arms.keys() & set(opponents), key=ORDER.index):
            counted = _differing(self.arms[TUNED], self.arms[arm], noisy)
            for run in map(int, np.flatnonzero(kept)):
                told = (self.primary, arm, n, self.look, tuple(counted[run]))
                kept[run] = _beats(*told) and (self.people is None or self._left(_contest(*told), run))
        for rule, (base, tuned) in zip(GUARDS, self.guards, strict=False):
            counted = _differing(tuned, base, None)
            kept &= [not _worse(rule, BASE, n, self.look, tuple(line)) for line in counted]
        return kept

    def _left(self, contest: Contest, run: int) -> bool:
        """Tell whether a gain is left when the judge's bias is taken off, as far as people's labels bound it."""
        assert self.people is not None
        table = contest.table
        labelled = table.rows[:LABELLED]
        pair = (contest.against, TUNED)
        scores = Scores(
            JUDGED.name,
            labelled,
            arms={arm: _column(self.arms[arm][run, :LABELLED]) for arm in pair},
            labels={
                arm: dict(zip(labelled, self.people[arm][run, :LABELLED].tolist(), strict=True))
                for arm in pair
            },
        )
        return Checked.of(contest, scores).holds


def _column(passes: Passes) -> tuple[float, ...]:
    return tuple(passes.astype(float).tolist())


def _differing(tuned: Passes, other: Passes, noisy: Passes | None) -> list[list[int]]:
    """Return, for each session, the rows fixed and broken, and those of them that are noisy."""
    found = [tuned & ~other, other & ~tuned]
    of_them = [] if noisy is None else [one & noisy for one in found]
    counts: list[list[int]] = np.stack([one.sum(axis=1) for one in (*found, *of_them)], axis=1).tolist()
    return counts


@cache
def _beats(rule: Rule, against: str, n: int, look: int, counts: tuple[int, ...]) -> bool:
    return _contest(rule, against, n, look, counts).beats


@cache
def _worse(rule: Rule, against: str, n: int, look: int, counts: tuple[int, ...]) -> bool:
    return _contest(rule, against, n, look, counts).worse


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


def under_a_judge(rng: np.random.Generator, found: Sessions) -> Sessions:
    """Let a judge say what passes: right on four answers in five, and for the tuned model's a tenth more generous."""

    def says(arm: str, right: Passes) -> Passes:
        chance = np.where(right, JUDGE_RIGHT, 1 - JUDGE_RIGHT) + (JUDGE_LEANS if arm == TUNED else 0.0)
        said: Passes = rng.random(right.shape) < chance
        return said

    arms = {arm: says(arm, right) for arm, right in found.arms.items()}
    again = None if found.again is None else says(BASE, found.again)
    wavers = rng.random(arms[TUNED].shape) < JUDGE_WAVERS
    return Sessions(arms, again, found.guards, found.look, found.arms, wavers)


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


def judged(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often an adapter is kept with everything on, a judge as primary rule, and labels of 100 rows.

    By the judge alone every worthless adapter would seem ten points better than what it is no better than.
    """
    yield _head("everything on, and a judge | a keep is")
    for name, adapter in {**WORTHLESS, "knows 95%": right_on(0.95)}.items():
        rates = []
        for n in SIZES:
            kept = 0
            for labels in LABELS:
                found = under_a_judge(rng, everything_on(rng, runs, n, labels, 0.0, adapter, 1)).kept()
                if name in WORTHLESS:
                    check(f"{name}, a judge, {labels} labels, n={n}", int(found.sum()), runs, LEVEL)
                kept += int(found.sum())
            rates.append(kept / runs / len(LABELS))
        yield f"| {name} | {'false' if name in WORTHLESS else 'true'} | {_percent(rates)} |"


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
        (
            f"Adapters kept under a judge that errs, leans and wavers, {len(LABELS) * runs} runs a cell",
            judged(rng, runs),
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
