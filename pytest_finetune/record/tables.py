"""Rates, gains, the training and the memory of a run as plain rows: every view, and MLflow, only lays them out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pytest_finetune.record.inputs import MemoryFacts, TrainingFacts
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import Comparison, RuleFacts, Score
from pytest_finetune.wording import (
    arm_word,
    counted,
    duration,
    figure,
    gain_span,
    gain_words,
    one_line,
    percent,
    points,
    rate_span,
    size,
)


class Rate(NamedTuple):
    """An arm under a rule: its rate, the interval, both together, how many rows passed; without a score, not run."""

    arm: str
    score: Score
    rate: str
    span: str
    words: str
    counts: str


class Gain(NamedTuple):
    """The tuned arm's gain over another one; `asked` tells whether an adapter is kept only with it."""

    pair: Comparison
    asked: bool
    over: str
    points: str
    span: str
    words: str
    changed: tuple[str, str]


class Training(NamedTuple):
    """A training in words."""

    steps: str
    seconds: str
    loss: str


class Time(NamedTuple):
    """What some of a run's seconds were spent on, and their share of all."""

    part: str
    seconds: str
    share: float


def rates(experiment: RecordedExperiment) -> list[tuple[RuleFacts, list[Rate]]]:
    """Return each rule with the rates of all arms, both in the order of the record."""
    rules = experiment.rules.values()
    return [(rule, [rate(experiment, arm, rule.name) for arm in experiment.arms]) for rule in rules]


def rates_by_suite(experiment: RecordedExperiment, arms: Sequence[str]) -> list[tuple[RuleFacts, list[Rate]]]:
    """Return each rule with the rates of these arms on the suite that it judges."""
    return [
        (rule, [rate(experiment, f"{arm}@{rule.suite}" if rule.suite else arm, rule.name) for arm in arms])
        for rule in experiment.rules.values()
    ]


def rate(experiment: RecordedExperiment, arm: str, rule: str) -> Rate:
    """Word how an arm fared under a rule."""
    score = experiment.arms[arm].rules[rule]
    span, alone = rate_span(score.interval), "not run" if score.rate is None else percent(score.rate)
    words = alone if score.rate is None else f"{alone} {span}".rstrip()
    return Rate(arm, score, alone, span, words, passed_of(score.passed, score.total))


def gains(experiment: RecordedExperiment) -> list[Gain]:
    """Return the gains under the primary rule (of every rule where there is none), those that were asked for first."""
    main = experiment.primary
    pairs = [pair for pair in experiment.over_other_models if not main or pair.rule == main.name]
    found = [gain(pair, asked=experiment.is_opponent(pair.against)) for pair in pairs]
    return sorted(found, key=lambda one: not one.asked)


def gain(pair: Comparison, *, asked: bool = True) -> Gain:
    """Word a comparison."""
    over, span = arm_word(pair.against or "an unknown arm"), gain_span(pair.interval)
    words, changed = gain_words(pair.gain, pair.interval), (len(pair.fixed), len(pair.broken))
    return Gain(
        pair, asked, over, points(pair.gain), span, words, (f"{changed[0]} fixed", f"{changed[1]} broken")
    )


def training_row(training: TrainingFacts) -> Training:
    """Word what a training took and where it ended."""
    return Training(counted(training.steps, "step"), duration(training.seconds), figure(training.final_loss))


def time_rows(timings: Mapping[str, float]) -> list[Time]:
    """Word what the seconds were spent on, most first; nothing where not even one was."""
    spent = {part: seconds for part, seconds in timings.items() if math.isfinite(seconds)}
    whole = sum(spent.values())
    if whole < 1:
        return []
    ranked = sorted(spent.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Time(_time_word(part), duration(seconds), seconds / whole) for part, seconds in ranked]


def whole_time(timings: Mapping[str, float]) -> str:
    """Word all the seconds together."""
    return duration(sum(seconds for seconds in timings.values() if math.isfinite(seconds)))


def _time_word(part: str) -> str:
    what, of, arm = part.partition(" of ")
    return f"{what} of {arm_word(arm)}" if of else part


def passed_of(passed: float | None, total: int | None) -> str:
    """Word how many rows of all passed."""
    return f"{figure(passed, 6)} of {figure(total, 6)}"


def peaks(memory: MemoryFacts) -> str:
    """Word the predicted peak, or why there is none, and the measured one with its card where that is another."""
    measured = memory.measured_peak_bytes
    other = f" on {one_line(memory.measured_card, 40)}, another card" if memory.not_compared else ""
    also = f", {size(measured)} measured{other}" if measured is not None else ""
    if memory.not_planned:
        return f"not planned ({one_line(memory.not_planned, 120)}){also}"
    return f"{size(memory.predicted_peak_bytes)} predicted{also}"


def fits_word(memory: MemoryFacts) -> str:
    """Word whether the training fits: planned, else measured within the budget, else not judged."""
    if memory.fits:
        return memory.fits
    measured, budget = memory.measured_peak_bytes, memory.budget_bytes
    if not memory.not_planned or measured is None or budget is None:
        return "not judged"
    return "fits" if measured <= budget else "tight"
