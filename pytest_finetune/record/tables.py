"""Rates, gains, the training and the memory of a run as plain rows: every view, and MLflow, only lays them out."""

from __future__ import annotations

from collections.abc import Sequence
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
    percent,
    points,
    rate_span,
    size,
)


class Rate(NamedTuple):
    """An arm under a rule; without a rate it did not run."""

    arm: str
    score: Score

    @property
    def rate(self) -> str:
        """The rate alone."""
        return "not run" if self.score.rate is None else percent(self.score.rate)

    @property
    def span(self) -> str:
        """Its interval."""
        return rate_span(self.score.interval)

    @property
    def words(self) -> str:
        """The rate with its interval."""
        return "not run" if self.score.rate is None else f"{self.rate} {self.span}".rstrip()

    @property
    def counts(self) -> str:
        """How many rows passed."""
        return passed_of(self.score.passed, self.score.total)


class Gain(NamedTuple):
    """The tuned arm's gain over another one; `asked` tells whether an adapter is kept only with it."""

    pair: Comparison
    asked: bool

    @property
    def over(self) -> str:
        """The other arm."""
        return arm_word(self.pair.against or "an unknown arm")

    @property
    def points(self) -> str:
        """The gain alone."""
        return points(self.pair.gain)

    @property
    def span(self) -> str:
        """Its interval."""
        return gain_span(self.pair.interval)

    @property
    def words(self) -> str:
        """The gain with its interval."""
        return gain_words(self.pair.gain, self.pair.interval)

    @property
    def changed(self) -> tuple[str, str]:
        """How many rows the tuning fixed, and how many it broke."""
        return f"{len(self.pair.fixed)} fixed", f"{len(self.pair.broken)} broken"


class Training(NamedTuple):
    """A training in words."""

    steps: str
    seconds: str
    loss: str


def rates(experiment: RecordedExperiment) -> list[tuple[RuleFacts, list[Rate]]]:
    """Return each rule with the rates of all arms, both in the order of the record."""
    return [
        (rule, [_rate(experiment, arm, rule) for arm in experiment.arms])
        for rule in experiment.rules.values()
    ]


def rates_by_suite(experiment: RecordedExperiment, arms: Sequence[str]) -> list[tuple[RuleFacts, list[Rate]]]:
    """Return each rule with the rates of these arms on the suite that it judges."""
    return [
        (rule, [_rate(experiment, f"{arm}@{rule.suite}" if rule.suite else arm, rule) for arm in arms])
        for rule in experiment.rules.values()
    ]


def _rate(experiment: RecordedExperiment, arm: str, rule: RuleFacts) -> Rate:
    return Rate(arm, experiment.arms[arm].rules[rule.name])


def gains(experiment: RecordedExperiment) -> list[Gain]:
    """Return the gains under the primary rule (of every rule where there is none), those that were asked for first."""
    main = experiment.primary
    pairs = [pair for pair in experiment.comparisons if not main or pair.rule == main.name]
    found = [Gain(pair, experiment.is_opponent(pair.against)) for pair in pairs]
    return sorted(found, key=lambda gain: not gain.asked)


def training_row(training: TrainingFacts) -> Training:
    """Word what a training took and where it ended."""
    return Training(counted(training.steps, "step"), duration(training.seconds), figure(training.final_loss))


def passed_of(passed: float | None, total: int | None) -> str:
    """Word how many rows of all passed."""
    return f"{figure(passed, 6)} of {figure(total, 6)}"


def peaks(memory: MemoryFacts) -> str:
    """Word the predicted peak, and the measured one where there is one."""
    measured = memory.measured_peak_bytes
    also = f", {size(measured)} measured" if measured is not None else ""
    return f"{size(memory.predicted_peak_bytes)} predicted{also}"
