"""A search: trials with other values of a few settings, and the one that got the most on the development rows.

It says which of them to judge and proves nothing: the best of several is flattered by having been chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_finetune import wording
from pytest_finetune.experiment.over import Over, Range
from pytest_finetune.judging.learning import Trained

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
_STATES: Final = (COMPLETE, PRUNED, FAILED)
FLATTERED: Final = (
    "the best of several is flattered by having been chosen: this says what to judge and proves nothing"
)


def next_step(file: str) -> str:
    """Say how the best trial is judged, which is written in `file`."""
    return f"judge it once, by pytest --finetune -o finetune_experiments={file}"


@dataclass(frozen=True, slots=True)
class SearchTrial:
    """One trial: its place from 1, its values, and how it ended; `trained` is there where it came to its end.

    `why` says why it was stopped early or failed.
    """

    number: int
    values: Mapping[str, Any]
    state: str
    why: str
    trained: Trained | None

    @classmethod
    def of_json(cls, number: int, tree: Mapping[str, Any], overs: Sequence[Over]) -> SearchTrial:
        """Return what was kept as JSON, its values in the order in which they were asked for."""
        values = {over.key: tree["values"][over.key] for over in overs}
        trained = Trained.of_json(tree["tried"]) if tree["tried"] else None
        return cls(number, values, tree["state"], tree["why"], trained)

    def value(self, key: str) -> str:
        """Word what it had for a key."""
        found = self.values[key]
        return wording.figure(found) if isinstance(found, float) else str(found)

    @property
    def named(self) -> str:
        """All its values in words."""
        return ", ".join(f"{key} {self.value(key)}" for key in self.values)

    def as_json(self) -> dict[str, Any]:
        """Return what came of it, for programs."""
        trained = self.trained
        return {
            "values": dict(self.values),
            "state": self.state,
            "why": self.why,
            "rate": trained and trained.score.rate,
            "interval": trained and list(trained.interval),
            "loss": trained and trained.score.loss,
            "reused": trained and trained.reused,
            "adapter": trained and trained.score.adapter,
        }


@dataclass(frozen=True, slots=True)
class Searched:
    """What was tried, and the trials in their order, of which one at least came to its end."""

    overs: tuple[Over, ...]
    trials: tuple[SearchTrial, ...]

    @property
    def complete(self) -> tuple[tuple[SearchTrial, Trained], ...]:
        """The trials that came to their end, with what they got."""
        return tuple((one, one.trained) for one in self.trials if one.trained is not None)

    @property
    def best(self) -> tuple[SearchTrial, Trained]:
        """The trial with the highest rate, of equals that with the lower loss, of those the first."""
        return max(self.complete, key=lambda pair: pair[1].score.rank)

    @property
    def ends(self) -> str:
        """How the trials ended: 7 complete, 1 pruned."""
        states = [one.state for one in self.trials]
        return ", ".join(f"{states.count(word)} {word}" for word in _STATES if word in states)

    @property
    def sentence(self) -> str:
        """Say which trial got the most, and how much."""
        trial, trained = self.best
        score = trained.score
        return (
            f"best of {wording.counted(len(self.trials), 'trial')}: {trial.named}, {wording.percent(score.rate)} "
            f"{wording.rate_span(trained.interval)} of {wording.counted(score.tally.total, 'development row')} by rule "
            f"{score.rule}"
        )

    @property
    def won_by(self) -> str:
        """Say what set the best trial apart from the others, and how many of them it may not be better than."""
        trial, trained = self.best
        others = [pair for pair in self.complete if pair[0] is not trial]
        if not others:
            return f"trial {trial.number} is the only one{' that came to its end' * (len(self.trials) > 1)}"
        low, high = trained.interval
        near = sum(low <= other.score.rate <= high for _, other in others)
        if len(others) == 1:
            within = "lies the other trial" if near else "does not lie the other trial"
        else:
            within = f"lie {'all' if near == len(others) else f'{near} of the'} {len(others)} other trials"
        return f"trial {trial.number} won {_by(trained, others)}; within its interval {within}"

    @property
    def at_an_end(self) -> str | None:
        """Say which values of the best trial lie at an end of what was tried: better ones may lie beyond."""
        values = self.best[0].values
        ends = {over.key: over.end_near(values[over.key]) for over in self.overs if isinstance(over, Range)}
        said = [f"{key} lies at the {end} end of its range" for key, end in ends.items() if end]
        return f"{wording.listed(said)}: a better one may lie beyond, so search wider" if said else None

    def as_json(self) -> dict[str, Any]:
        """Return what was found, for programs."""
        trial, trained = self.best
        score = trained.score
        return {
            "trials": [one.as_json() for one in self.trials],
            "best": {
                "trial": trial.number,
                "values": dict(trial.values),
                "rate": score.rate,
                "interval": list(trained.interval),
                "adapter": score.adapter,
            },
            "sentence": self.sentence,
            "won_by": self.won_by,
            "at_an_end": self.at_an_end,
        }


def _by(best: Trained, others: Sequence[tuple[SearchTrial, Trained]]) -> str:
    """Say by what the best one won: its rate, among equals its loss, else by having been first."""
    score = best.score
    equals = [other.score for _, other in others if other.score.rate == score.rate]
    if not equals:
        next_trial, runner_up = max(others, key=lambda pair: pair[1].score.rank)
        return f"by its rate, ahead of {wording.percent(runner_up.score.rate)} of trial {next_trial.number}"
    alike = f"{wording.counted(len(equals) + 1, 'trial')} with this rate"
    if any(other.rank == score.rank for other in equals):
        return f"by being the first of {alike}"
    return f"by its loss of {wording.figure(score.loss)}, the lowest of {alike}"
