"""What a diagnosis reads, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pytest_finetune.experiment import Training
    from pytest_finetune.judging.scores import Scores


@dataclass(frozen=True, slots=True)
class NextChange:
    """The one thing to change before the next run: what, because of which numbers, rows to look at."""

    change: str
    because: str
    rows: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return the record's form."""
        return {"change": self.change, "because": self.because, "rows": list(self.rows)}


class Agreement(NamedTuple):
    """How often the tuned arm is alike in two runtimes, and the rows on which it is not."""

    first: str
    second: str
    same: int
    total: int
    rows: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """The share of rows that are alike; 1 where there is none to compare."""
        return self.same / self.total if self.total else 1.0


@dataclass(frozen=True, slots=True)
class DiagnosisEvidence:
    """What the diagnoses read; every part may be empty, and a diagnosis without its evidence says nothing.

    Columns follow `rows` (held-out row ids). `labels` holds, per arm, the label that each answer
    carries, None where none can be read; `expected_labels` is what it should be. `truncated` holds the
    places of training rows cut at the sequence length, `longest_tokens` what the longest of them needs.
    """

    verdict: str = "iterate"
    primary: str = ""
    min_gain: float = 0.05
    rows: tuple[str, ...] = ()
    scores: Mapping[str, Scores] = field(default_factory=dict)
    labels: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    expected_labels: tuple[str | None, ...] = ()
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stopped: tuple[bool, ...] = ()
    max_new_tokens: int | None = None
    longest_expected_tokens: int | None = None
    log: tuple[Mapping[str, float], ...] = ()
    steps: int | None = None
    training: Training | None = None
    training_rows: int | None = None
    training_outputs: tuple[str, ...] = ()
    truncated: tuple[str, ...] = ()
    longest_tokens: int | None = None
    runtime_match: tuple[Agreement, ...] = ()

    @property
    def losses(self) -> tuple[float, ...]:
        """The training losses in order."""
        return tuple(entry["loss"] for entry in self.log if "loss" in entry)

    @property
    def final_loss(self) -> float | None:
        """The last training loss, or None when none was logged."""
        return self.losses[-1] if self.losses else None

    def mean(self, arm: str) -> float | None:
        """Return an arm's mean score under the primary rule, over the rows that were not skipped."""
        scores = self.scores.get(self.primary)
        given = [] if scores is None else [score for score in scores.arms.get(arm, ()) if score is not None]
        return sum(given) / len(given) if given else None

    def failing(self, arm: str, most: int) -> tuple[str, ...]:
        """Return the first rows that an arm does not fully pass under the primary rule."""
        scores = self.scores.get(self.primary)
        pairs = () if scores is None else zip(scores.rows, scores.arms.get(arm, ()), strict=False)
        return tuple(row for row, score in pairs if score is not None and score < 1)[:most]

    def readable(self, arm: str) -> float | None:
        """Return the share of an arm's answers that carry a label at all."""
        labels = self.labels.get(arm, ())
        return sum(label is not None for label in labels) / len(labels) if labels else None
