"""Two recipes side by side, where each was trained with several seeds; one training says nothing of its recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pytest_finetune.answering.arm_plans import seed_arm
from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.judging.statistics.prediction import FEWEST_SEEDS, row_means, seed_margin
from pytest_finetune.judging.statistics.sample import Interval
from pytest_finetune.record.compare.matching import matched
from pytest_finetune.record.compare.rows import known_rows
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.recipes import ONE_SEED, seed_count
from pytest_finetune.wording import counted, gain_words


class Difference(NamedTuple):
    """How much the mean gain of B's seeds lies above that of A's, with its interval."""

    gain: float
    interval: Interval


def compared_recipes(one: RecordedExperiment, other: RecordedExperiment) -> dict[str, object]:
    """Return on how many seeds each run rests, what differs between the recipes, and that in a sentence."""
    seeds = [seed_count(run) for run in (one, other)]
    found = None if min(seeds) < FEWEST_SEEDS else difference(one, other)
    numbers = {"gain": None, "interval": None} if found is None else found._asdict()
    return {"seeds": seeds, **numbers, "says": _says(seeds, other.primary.name, found)}


def _says(seeds: Sequence[int], rule: str, found: Difference | None) -> str:
    mine, theirs = (counted(number, "seed") for number in seeds)
    rests = f"A rests on {mine} and B on {theirs}"
    if min(seeds) < FEWEST_SEEDS:
        return f"{rests}: {ONE_SEED}; train both with several (training.seeds)"
    if found is None:
        return f"{rests}, and they share no row on which both recipes were judged"
    low, high = found.interval
    word = "a difference of the recipes" if low > 0 or high < 0 else "no difference of the recipes is shown"
    return f"{rests}: {word}, {gain_words(found.gain, found.interval)} under {rule}"


def difference(one: RecordedExperiment, other: RecordedExperiment) -> Difference | None:
    """Return how far the mean of B's seeds lies from that of A's on the rows of both; None where there are none.

    The margins of both recipes' seeds and of the shared rows are added by their squares, as for the next seed.
    """
    mine, theirs = (_scores(run, other.primary.name) for run in (one, other))
    if not mine or not theirs:
        return None
    rows = matched(
        known_rows(one, "", dict.fromkeys(mine[0])), known_rows(other, "", dict.fromkeys(theirs[0]))
    )
    pairs = [
        ([seed[a] for seed in mine], [seed[b] for seed in theirs])
        for a, b in rows.pairs
        if all(seed[a] is not None for seed in mine) and all(seed[b] is not None for seed in theirs)
    ]
    if not pairs:
        return None
    before, now = (
        [[pair[side][s] or 0.0 for pair in pairs] for s in range(len(pairs[0][side]))] for side in (0, 1)
    )
    alpha = Levels(other.confidence(other.primary) or 0.95).brake
    gain = PairedGain.of(row_means(now), row_means(before))
    margins = [
        seed_margin([math.fsum(seed) / len(seed) for seed in side], alpha, further=0)
        for side in (before, now)
    ]
    low, high = gain.interval(alpha)
    below, above = (math.hypot(reach, *margins) for reach in (gain.gain - low, high - gain.gain))
    return Difference(gain.gain, Interval(max(-1.0, gain.gain - below), min(1.0, gain.gain + above)))


def _scores(experiment: RecordedExperiment, name: str) -> list[dict[str, float | None]]:
    """Return each seed's score of each row; empty where the rule did not judge them all."""
    rule = experiment.rules[name]
    given = [rule.scores.get(seed_arm(one.seed or 0), ()) for one in experiment.recipe.seeds]
    whole = all(len(scores) == len(rule.rows) for scores in given)
    return [dict(zip(rule.rows, scores, strict=True)) for scores in given] if whole else []
