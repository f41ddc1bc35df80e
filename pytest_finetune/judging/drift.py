"""Drift from the base on neutral prompts: what the training did to answers that it was not about."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pytest_finetune import wording
from pytest_finetune.errors import FinetuneError
from pytest_finetune.judging.score import Claim
from pytest_finetune.judging.statistics.exact import mcnemar_p
from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.sample import Interval, Sample

MEASURED: Final = "measured"
NOT_POSSIBLE: Final = "not possible"
ERROR: Final = "error"

_REMEDY: Final = (
    "replay the base's own answers (training.replay), add rows with other instructions, or train less "
    "(training.learning_rate, training.num_train_epochs)"
)
_FURTHEST_SHOWN: Final = 2
_TEXT_SHOWN: Final = 40


class NotMeasured(FinetuneError):
    """A number was asked for that this run could not measure; the message says why."""


class Figure(float):
    """A measured number that explains itself when an assertion about it fails."""

    name: str
    lines: tuple[str, ...]

    @classmethod
    def of(cls, value: float, name: str, lines: tuple[str, ...]) -> Figure:
        """Return `value` with what there is to say of it."""
        figure = cls(value)
        figure.name, figure.lines = name, lines
        return figure

    def explain(self, op: str, limit: object) -> list[str]:
        """Return why ``figure op limit`` does not hold, with the numbers behind it and what to do."""
        bound = f"{limit:g}" if isinstance(limit, int | float) else repr(limit)
        return [f"{self.name} is {self:.3g}, not {op} {bound}", *(f"  {line}" for line in self.lines)]


@dataclass(frozen=True, slots=True)
class DriftRow:
    """One neutral prompt: the exact text, both answers, and how far apart the models are along the base's.

    `kl` is the mean of KL(base || tuned) in nats over the `tokens` of the base's answer, None where it was not
    measured. The last two say whether an answer has the task's format.
    """

    id: str
    prompt: str
    base: str
    tuned: str
    tokens: int = 0
    kl: float | None = None
    base_like_task: bool = False
    tuned_like_task: bool = False

    @property
    def changed(self) -> bool:
        """Whether the answers differ in any character."""
        return self.base != self.tuned

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> DriftRow:
        """Return the row that a record holds."""
        return cls(**{field.name: facts[field.name] for field in dataclasses.fields(cls)})


@dataclass(frozen=True, slots=True, repr=False)
class Drift:
    """How far the tuned model has moved from its base on prompts that are not of its task.

    `outcome` is measured, not possible or error; `reason` says why nothing was measured, `kl_reason` why no KL was.
    `told_by` says by what the task's format is told, `null_changed` how many answers a random adapter of the same size
    changes, where one was asked.
    """

    rows: tuple[DriftRow, ...] = ()
    outcome: str = MEASURED
    reason: str | None = None
    kl_reason: str | None = None
    told_by: str = ""
    confidence: float = 0.95
    null_changed: int | None = None

    @classmethod
    def read(cls, facts: Mapping[str, Any] | None, confidence: float) -> Drift | None:
        """Return what a record holds; None where drift was switched off or not reached."""
        if not facts:
            return None
        return cls(
            rows=tuple(map(DriftRow.read, facts.get("rows") or ())),
            outcome=facts["outcome"],
            reason=facts["reason"],
            kl_reason=facts["kl_reason"],
            told_by=facts["told_by"] or "",
            confidence=confidence,
            null_changed=facts.get("null_changed"),
        )

    @property
    def measured(self) -> bool:
        """Whether both models have answered."""
        return self.outcome == MEASURED

    @property
    def changed(self) -> Figure:
        """The share of prompts whose answer is another text than the base's."""
        __tracebackhide__ = True
        self._need_answers()
        return self._figure(self._sample.mean, "the share of changed answers")

    @property
    def interval(self) -> Interval:
        """The interval of that share (Clopper-Pearson), as if other neutral prompts had been drawn."""
        __tracebackhide__ = True
        self._need_answers()
        alpha = Levels(self.confidence).brake
        return Interval(self._sample.lower(alpha, 0.0), self._sample.upper(alpha, 1.0))

    @property
    def mean_kl(self) -> Figure:
        """KL(base || tuned) in nats, the mean over all tokens of the base's answers."""
        __tracebackhide__ = True
        rows = self._need_kl()
        total = sum((row.kl or 0.0) * row.tokens for row in rows)
        return self._figure(total / sum(row.tokens for row in rows), "the mean token KL from the base")

    @property
    def max_kl(self) -> Figure:
        """The largest mean of one answer, in nats."""
        __tracebackhide__ = True
        largest = max(row.kl or 0.0 for row in self._need_kl())
        return self._figure(largest, "the largest mean token KL of an answer")

    @property
    def has_kl(self) -> bool:
        """Whether the runtime gave what KL needs."""
        return any(row.kl is not None for row in self.rows)

    @property
    def furthest(self) -> tuple[DriftRow, ...]:
        """The changed rows, those first whose tokens lie furthest from the base."""
        return tuple(
            sorted((row for row in self.rows if row.changed), key=lambda row: (-(row.kl or 0.0), row.id))
        )

    @property
    def forgets(self) -> Claim:
        """Whether more answers than the base's demonstrably have the task's format (exact McNemar, one-sided)."""
        __tracebackhide__ = True
        self._need_answers()
        base, tuned = self._like_task
        p = self._forgetting_p
        sentence = (
            f"{tuned} of {len(self.rows)} neutral prompts are answered in the task's format (told by the "
            f"{self.told_by}), {base} by the base, {wording.p_words(p)}"
        )
        return Claim(p <= Levels(self.confidence).brake, sentence, self._lines[1:])

    def risks(self) -> Iterator[str]:
        """Yield what a decision has to carry along."""
        if self.outcome == ERROR:
            yield f"drift from the base on neutral prompts was not measured: {self.reason}"
        elif self.measured and self.forgets:
            yield f"forgetting: {self.forgets.sentence}"

    def explain(self) -> list[str]:
        """Return what was measured, a line each."""
        return list(self._lines) if self.measured else [f"drift was not measured: {self.reason}"]

    def __repr__(self) -> str:
        return f"<drift: {self.explain()[0]}>" if self.measured else f"<{self.explain()[0]}>"

    def facts(self) -> dict[str, object]:
        """Return the record's form: the numbers, then the rows from which they follow."""
        counts: dict[str, object] = {"prompts": len(self.rows), "answers_changed": None, "interval": None}
        numbers: dict[str, object] = {"tokens": None, "mean_kl": None, "max_kl": None, "like_task": None}
        if self.measured:
            counts |= {"answers_changed": self._changed, "interval": list(self.interval)}
            base, tuned = self._like_task
            numbers["like_task"] = {"base": base, "tuned": tuned, "p_value": self._forgetting_p}
        if self.has_kl:
            tokens = sum(row.tokens for row in self.rows)
            numbers |= {"tokens": tokens, "mean_kl": float(self.mean_kl), "max_kl": float(self.max_kl)}
        said = {"outcome": self.outcome, "reason": self.reason, "kl_reason": self.kl_reason}
        rows = list(map(dataclasses.asdict, self.rows))
        null = {} if self.null_changed is None else {"null_changed": self.null_changed}
        return {**said, **counts, **numbers, **null, "told_by": self.told_by or None, "rows": rows}

    @property
    def _changed(self) -> int:
        return sum(row.changed for row in self.rows)

    @property
    def _sample(self) -> Sample:
        return Sample.of([float(row.changed) for row in self.rows])

    @property
    def _like_task(self) -> tuple[int, int]:
        return sum(row.base_like_task for row in self.rows), sum(row.tuned_like_task for row in self.rows)

    @property
    def _forgetting_p(self) -> float:
        gained = sum(row.tuned_like_task and not row.base_like_task for row in self.rows)
        lost = sum(row.base_like_task and not row.tuned_like_task for row in self.rows)
        return mcnemar_p(gained, lost)

    @property
    def _lines(self) -> tuple[str, ...]:
        low, high = self.interval
        base, tuned = self._like_task
        percent, shown = wording.percent, f"{self.confidence:.0%}"
        changed = (
            f"{self._changed} of {len(self.rows)} neutral answers changed "
            f"({shown} interval {percent(low)} to {percent(high)}), {tuned} in the task's format, {base} by the base"
        )
        null = (
            ()
            if self.null_changed is None
            else (
                f"a random adapter of the same size changes {self.null_changed} of {len(self.rows)} answers",
            )
        )
        return (
            changed,
            *null,
            *(_row_line(row) for row in self.furthest[:_FURTHEST_SHOWN]),
            f"to do: {_REMEDY}",
        )

    def _figure(self, value: float, name: str) -> Figure:
        return Figure.of(value, name, self._lines)

    def _need_answers(self) -> None:
        __tracebackhide__ = True
        if not self.measured:
            raise NotMeasured(f"drift was not measured: {self.reason}")

    def _need_kl(self) -> tuple[DriftRow, ...]:
        __tracebackhide__ = True
        self._need_answers()
        if not self.has_kl:
            raise NotMeasured(f"no token KL: {self.kl_reason}; assert drift.changed or drift.forgets instead")
        return tuple(row for row in self.rows if row.kl is not None)


def _row_line(row: DriftRow) -> str:
    base, tuned = (repr(wording.one_line(text, _TEXT_SHOWN)) for text in (row.base, row.tuned))
    kl = "" if row.kl is None else f" (KL {row.kl:.3g})"
    return f"{row.id}{kl}: {base} -> {tuned}"
