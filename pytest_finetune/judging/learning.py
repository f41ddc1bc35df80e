"""A learning curve: trainings on ever more rows, or with other values of one setting, judged on development rows.

It says what to do next and proves nothing: the rows that prove are not read for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pytest_finetune import wording
from pytest_finetune.judging.development import DevScore
from pytest_finetune.judging.statistics.learning_curve import LEVEL, Forecast, Point, chance_of_rows, forecast
from pytest_finetune.judging.statistics.levels import holm
from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.judging.statistics.sample import Interval, Sample

ALPHA: Final = 0.025
"""The one-sided level of intervals and of what is called better, Holm's correction over all values included."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One training of a curve: on how many rows, for how many steps, what it overrode, and its score."""

    overrides: Mapping[str, Any]
    rows: int
    steps: int
    seconds: float
    reused: bool
    score: DevScore

    @classmethod
    def of_json(cls, tree: Mapping[str, Any]) -> Trained:
        """Return what was kept as JSON."""
        return cls(**{**tree, "score": DevScore.of_json(tree["score"])})

    @property
    def interval(self) -> Interval:
        """The interval of its true rate on rows like the development rows."""
        kept = [at for at, score in enumerate(self.score.scores) if score is not None]
        values = [float(self.score.scores[at] or 0) for at in kept]
        sample = Sample.of(values, _known_groups(self.score, kept))
        return Interval(sample.lower(ALPHA, 0.0), sample.upper(ALPHA, 1.0))


class Advice(NamedTuple):
    """What a curve says, and what to do."""

    sentence: str
    change: str


class Changed(NamedTuple):
    """So many rows scored lower than before, and so many higher."""

    broken: int
    mended: int

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float]) -> Changed:
        """Count them."""
        pairs = list(zip(before, after, strict=True))
        return cls(sum(b > a for b, a in pairs), sum(b < a for b, a in pairs))


@dataclass(frozen=True, slots=True)
class RowsCurve:
    """Trainings on nested parts of the training rows, the smallest first."""

    points: tuple[Trained, ...]

    @property
    def forecast(self) -> Forecast | None:
        """What twice the rows would bring; None where the parts are too few to say."""
        table = _common([point.score for point in self.points])
        if not table.rows or len(self.points) < 2:
            return None
        points = [
            Point(one.rows, sum(scores) / len(scores))
            for one, scores in zip(self.points, table.scores, strict=True)
        ]
        return forecast(points, chance_of_rows(table.scores, table.groups or ()))

    @property
    def advice(self) -> Advice:
        """What twice the rows would bring, and whether to write more."""
        found, rows, dev = self.forecast, self.points[-1].rows, self.points[-1].score.tally.total
        if found is None:
            return Advice(
                f"{wording.counted(rows, 'training row')} make {wording.counted(len(self.points), 'part')} only, too "
                "few for a curve",
                "write more training rows first, or train with other seeds",
            )
        span = f"{wording.signed(found.low)} to {wording.signed(found.high)}"
        if found.rises:
            return Advice(
                f"twice as many rows of this kind would bring {wording.points(found.gain)} ({span})",
                f"write more rows like these: about {rows:,} more, trained for as many steps",
            )
        if found.flat:
            return Advice(
                "twice as many rows of this kind would bring nothing that can be shown: at most "
                f"{wording.points(found.at_most)}",
                "write no more rows of this kind: look at the rows that fail, or at another setting "
                "(--over lora.r=4,8,16)",
            )
        return Advice(
            f"{len(self.points)} points on {wording.counted(dev, 'development row')} cannot tell what twice as many "
            f"rows would bring: anything from {wording.signed(found.low)} to {wording.points(found.high)}",
            "set more rows aside to choose on before you write rows to train on",
        )

    def as_json(self) -> dict[str, Any]:
        """Return what was found, for programs."""
        found = self.forecast
        return {
            "points": [_facts(point) for point in self.points],
            "forecast": None
            if found is None
            else {"level": LEVEL, "rows": 2 * self.points[-1].rows, **found._asdict()},
            **self.advice._asdict(),
        }


@dataclass(frozen=True, slots=True)
class ValuesCurve:
    """Trainings with a few values of one setting, in the order in which they were named: the cheapest first."""

    key: str
    points: tuple[Trained, ...]

    def gains(self) -> tuple[PairedGain, ...]:
        """Return the gain of each value over the first, row by row."""
        table = _common([point.score for point in self.points])
        return tuple(PairedGain.of(scores, table.scores[0], table.groups) for scores in table.scores)

    def changed(self) -> tuple[Changed, ...]:
        """Count the rows that each value breaks and mends against the first."""
        first, *_ = table = _common([point.score for point in self.points]).scores
        return tuple(Changed.of(first, scores) for scores in table)

    @property
    def advice(self) -> Advice:
        """Whether a value is better than the first, and which to take."""
        first, *others = self.points
        gains = self.gains()[1:]
        shown = holm([gain.p for gain in gains], [ALPHA] * len(gains))
        better = [one for one, is_better in zip(others, shown, strict=True) if is_better]
        rows = wording.counted(first.score.tally.total, "development row")
        named = self._value(first)
        if not better:
            return Advice(
                f"no value of {self.key} is demonstrably better than {named} on {rows}{self._nearly()}",
                f"keep {named}, or set more rows aside to choose on",
            )
        best = max(better, key=lambda one: one.score.rank)
        gain = gains[others.index(best)]
        return Advice(
            f"{self.key} {self._value(best)} is demonstrably better than {named} on {rows}: "
            f"{wording.gain_words(gain.gain, gain.interval(ALPHA))}",
            f"write {self.key}: {self._value(best)}, and judge it by pytest --finetune",
        )

    def _nearly(self) -> str:
        """Say of the best interval above zero why nothing is claimed by it, where none of the values is better."""
        pairs = list(zip(self.points, self.gains(), strict=True))[1:]
        above = [(gain.p, self._value(one)) for one, gain in pairs if gain.interval(ALPHA).low > 0]
        if not above:
            return ""
        p, value = min(above)
        tried = wording.counted(len(pairs), "value")
        return (
            f": {value} taken alone has an interval above zero (p {wording.figure(p, 3)}), but with {tried} tried "
            f"a claim takes p {wording.figure(ALPHA / len(pairs), 3)} or less (Holm)"
        )

    def _value(self, point: Trained) -> str:
        return str(point.overrides[self.key])

    def as_json(self) -> dict[str, Any]:
        """Return what was found, for programs."""
        return {
            "key": self.key,
            "points": [
                {**_facts(point), "gain": gain.gain, "gain_interval": list(gain.interval(ALPHA))}
                for point, gain in zip(self.points, self.gains(), strict=True)
            ],
            **self.advice._asdict(),
        }


def _facts(point: Trained) -> dict[str, Any]:
    passed, total = point.score.tally
    return {
        "overrides": dict(point.overrides),
        "rows": point.rows,
        "steps": point.steps,
        "reused": point.reused,
        "passed": passed,
        "total": total,
        "rate": point.score.rate,
        "interval": list(point.interval),
        "loss": point.score.loss,
        "adapter": point.score.adapter,
    }


class _Common(NamedTuple):
    """The rows that no training skipped, each training's scores on them, and their groups if they have any."""

    rows: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]
    groups: tuple[str | None, ...] | None


def _common(scores: Sequence[DevScore]) -> _Common:
    kept = [at for at in range(len(scores[0].rows)) if all(one.scores[at] is not None for one in scores)]
    given = tuple(tuple(float(one.scores[at] or 0) for at in kept) for one in scores)
    return _Common(tuple(scores[0].rows[at] for at in kept), given, _known_groups(scores[0], kept))


def _known_groups(score: DevScore, kept: Sequence[int]) -> tuple[str | None, ...] | None:
    """Return the groups of some rows; None where no row has one."""
    groups = tuple(score.groups[at] for at in kept) if score.groups else ()
    return groups if any(groups) else None
