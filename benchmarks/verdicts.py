"""Simulate adapters that learnt nothing but a format, and count how often one is kept.

Prints two tables of docs/decision.md::

    python -P benchmarks/verdicts.py [--quick] [--seed N]

Every simulated run goes through `decide` itself, with the base model, a prompt and the commonest training label as
opponents. The base does not speak the task's format, which is the hardest case: it scores nothing, so that only the
commonest label stands between an adapter and a keep. Exits with 1 when a stated rate is exceeded beyond what chance
explains.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from unittest import mock

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.advice import Needed
from pytest_finetune.judging.decision import Case, decide
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores

Labels = npt.NDArray[np.int64]
Answer = Callable[[np.random.Generator, Labels, Labels], Labels]

LEVEL = 0.025
LOSS_ALLOWED = 0.03
TRAINING_ROWS = 400
LABELS = (2, 3, 4, 8, 12)
SIZES = (20, 50, 100, 200, 400)
EXCEEDED: list[str] = []


def constant(rng: np.random.Generator, gold: Labels, training: Labels) -> Labels:
    """Say the commonest training label to everything."""
    return np.full_like(gold, _commonest(training))


def another_constant(rng: np.random.Generator, gold: Labels, training: Labels) -> Labels:
    """Say one label to everything, and not the commonest one."""
    return np.full_like(gold, Counter(training.tolist()).most_common(2)[-1][0])


def noisy_constant(rng: np.random.Generator, gold: Labels, training: Labels) -> Labels:
    """Say the commonest training label to nine in ten, any training row's label to the others."""
    stray = rng.random(len(gold)) < 0.1
    return np.where(stray, rng.choice(training, len(gold)), _commonest(training))


def format_only(rng: np.random.Generator, gold: Labels, training: Labels) -> Labels:
    """Say the label of any training row."""
    drawn: Labels = rng.choice(training, len(gold))
    return drawn


def right_on(share: float) -> Answer:
    """Return an adapter that knows the label on a share of the questions and guesses elsewhere."""

    def answer(rng: np.random.Generator, gold: Labels, training: Labels) -> Labels:
        knows = rng.random(len(gold)) < share
        return np.where(knows, gold, rng.choice(training, len(gold)))

    return answer


WORTHLESS: Mapping[str, Answer] = {
    "always the commonest label": constant,
    "always another label": another_constant,
    "the commonest label, one in ten at random": noisy_constant,
    "the format, any label": format_only,
}


def session(
    rng: np.random.Generator, n: int, labels: int, skew: float, adapter: Answer, base: Answer | None
) -> Case:
    """Draw one session: training and held-out labels of one distribution, and the four arms' answers."""
    weights = np.arange(1, labels + 1, dtype=float) ** -skew
    training = rng.choice(labels, TRAINING_ROWS, p=weights / weights.sum())
    gold = rng.choice(labels, n, p=weights / weights.sum())
    unspoken = np.full_like(gold, -1)
    arms = {
        "baseline": unspoken if base is None else base(rng, gold, training),
        "prompted": unspoken if base is None else base(rng, gold, training),
        "majority": constant(rng, gold, training),
        "tuned": adapter(rng, gold, training),
    }
    scores = {arm: tuple((said == gold).astype(float).tolist()) for arm, said in arms.items()}
    return Case(
        (Rule("label", primary=True),),
        {"label": Scores("label", tuple(map(str, range(n))), (), scores)},
        DecisionDefaults(),
        arms=tuple(arms),
        margins={"majority": 0.0},
        answers_differ=True,
        delta_nonzero=True,
    )


def without_majority(case: Case) -> Case:
    """Return the same session without its trivial opponent."""
    scores = case.scores["label"]
    arms = {arm: given for arm, given in scores.arms.items() if arm != "majority"}
    left = Scores(scores.name, scores.rows, (), arms)
    return Case(
        case.rules,
        {"label": left},
        case.defaults,
        arms=tuple(arms),
        answers_differ=True,
        delta_nonzero=True,
    )


def false_keeps(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often a worthless adapter is kept, with the commonest label as an opponent and without."""
    yield "| adapter | labels | " + " | ".join(f"n={n}" for n in SIZES) + " | without the opponent, n=100 |"
    yield "|---|---|" + "---|" * (len(SIZES) + 1)
    for name, adapter in WORTHLESS.items():
        for labels in LABELS:
            for skew, word in ((0.0, "even"), (1.0, "skewed")):
                cells = []
                for n in SIZES:
                    kept = sum(decide(session(rng, n, labels, skew, adapter, None)).keep for _ in range(runs))
                    check(f"{name}, {labels} labels ({word}), n={n}", kept, runs, LEVEL)
                    cells.append(f"{kept / runs:.1%}")
                blind = sum(
                    decide(without_majority(session(rng, 100, labels, skew, adapter, None))).keep
                    for _ in range(max(20, runs // 10))
                )
                cells.append(f"{blind / max(20, runs // 10):.0%}")
                yield f"| {name} | {labels}, {word} | " + " | ".join(cells) + " |"


def power_lost(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Print how often a good adapter is kept without and with the trivial opponent.

    Where the base is right as often as the commonest label or more often, the opponent may cost three points at most.
    Where the base says nothing readable, beating it was never a result; the loss there is the point.
    """
    yield "| the adapter knows | labels | base | " + " | ".join(f"n={n}" for n in SIZES) + " |"
    yield "|---|---|---|" + "---|" * len(SIZES)
    for share in (0.3, 0.5, 0.8):
        for labels in LABELS:
            for base, word in ((right_on(0.2), "knows 20%"), (None, "says nothing")):
                cells = []
                for n in SIZES:
                    cases = [session(rng, n, labels, 0.0, right_on(share), base) for _ in range(runs)]
                    before = [decide(without_majority(case)).keep for case in cases]
                    after = [decide(case).keep for case in cases]
                    lost = sum(before) - sum(after)
                    if base is not None:
                        check(f"power, {share:.0%} known, {labels} labels, n={n}", lost, runs, LOSS_ALLOWED)
                    cells.append(f"{sum(before) / runs:.0%} to {sum(after) / runs:.0%}")
                yield f"| {share:.0%} | {labels} | {word} | " + " | ".join(cells) + " |"


def check(what: str, hits: int, runs: int, stated: float) -> None:
    """Note a rate whose 99.9% lower bound lies above what is stated."""
    lower = betaincinv(hits, runs - hits + 1, 0.001) if hits > 0 else 0.0
    if lower > stated:
        EXCEEDED.append(f"{what}: {hits / runs:.1%} of {runs} runs, stated {stated:.1%}")


def _commonest(training: Labels) -> int:
    return int(Counter(training.tolist()).most_common(1)[0][0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables; return 1 when a stated rate is exceeded."""
    parser = argparse.ArgumentParser(description="Simulate adapters that learnt nothing but a format.")
    parser.add_argument("--quick", action="store_true", help="about a minute instead of ten")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    rng, runs = np.random.default_rng(chosen.seed), 20 if chosen.quick else 600
    started = time.perf_counter()
    with mock.patch(
        "pytest_finetune.judging.decision.rows_needed", return_value=Needed(None, ("not planned",))
    ):
        for title, table in (
            (f"Worthless adapters kept, {runs} runs a cell", false_keeps(rng, runs)),
            (f"Good adapters kept without and with the opponent, {runs} runs a cell", power_lost(rng, runs)),
        ):
            print(f"\n{title}\n", flush=True)
            for line in table:
                print(line, flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s")
    for line in EXCEEDED:
        print(f"EXCEEDED: {line}")
    return 1 if EXCEEDED else 0


if __name__ == "__main__":
    sys.exit(main())
