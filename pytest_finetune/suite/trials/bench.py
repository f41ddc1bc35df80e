"""Where trials are made one after the other: each is judged on the development rows and then gives its memory back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_finetune.suite.trials.trial import Trial, trial_of, whole

if TYPE_CHECKING:
    import pytest

    from pytest_finetune.data.rows import Rows
    from pytest_finetune.judging.development import DevScore
    from pytest_finetune.suite.context import Context


class Tried(NamedTuple):
    """A trial that is over: what it overrode, on how many rows it was trained for how long, and its score."""

    overrides: Mapping[str, Any]
    rows: int
    steps: int
    seconds: float
    reused: bool
    score: DevScore

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {**self._asdict(), "overrides": dict(self.overrides), "score": self.score.as_json()}


class Bench:
    """The trials of one experiment; `found` is where what came of them is kept, also when they are interrupted."""

    def __init__(self, context: Context, rules: Sequence[pytest.Item], found: dict[str, Any]) -> None:
        self.context = context
        self.found = found
        self.rules = rules

    @cached_property
    def base(self) -> Trial:
        """The trial of the experiment as it is written."""
        return trial_of(self.context, self.rules, {})

    def judge(
        self,
        overrides: Mapping[str, Any],
        taken: Callable[[Rows], Rows] = whole,
        context: Context | None = None,
    ) -> Tried:
        """Train and judge one trial, or take from the store what is there of it."""
        trial = trial_of(context or self.context, self.rules, overrides, taken)
        try:
            score, adapter = trial.score, trial.adapter
        finally:
            trial.end()
        return Tried(overrides, len(trial.train_rows), adapter.steps, adapter.seconds, adapter.reused, score)

    def end(self) -> None:
        """Give back what the trial of the whole experiment holds."""
        self.base.end()
