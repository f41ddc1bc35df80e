"""What a diagnosis reads, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune import wording

if TYPE_CHECKING:
    from pytest_finetune.experiment import Training
    from pytest_finetune.judging.scores import Scores

TRIVIAL: Final = ("majority", "copy")
"""The arms that read no question."""


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
    carries, None where none can be read; `expected_labels` is what it should be, `expected` the whole answers.
    `formats` holds, per arm, the share of answers in the task's format, where that was counted. `met` says how the
    tuned arm did against each opponent under the primary rule. `stops_taught` tells whether every training row ended in
    a stop token, `forgets` what neutral prompts show, each None where it is not known. `unstable` says how far several
    seeds lie apart, where that is more than they gain. `cut` says what to do about
    arms whose answers the token limit kept from being given. `truncated` holds the
    places of training rows cut at the sequence length, `longest_tokens` what the longest of them needs.
    `runtime_causes` names, by runtime, what may have made its answers others than those that were judged.
    """

    verdict: str = "iterate"
    primary: str = ""
    min_gain: float = 0.05
    rows: tuple[str, ...] = ()
    scores: Mapping[str, Scores] = field(default_factory=dict)
    labels: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    expected_labels: tuple[str | None, ...] = ()
    expected: tuple[str, ...] = ()
    formats: Mapping[str, float] = field(default_factory=dict)
    met: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stopped: tuple[bool, ...] = ()
    stops_taught: bool | None = None
    forgets: str | None = None
    unstable: str | None = None
    cut: tuple[NextChange, ...] = ()
    temperature: float = 0.0
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
    runtime_causes: Mapping[str, str] = field(default_factory=dict)

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
        """Return the share of an arm's answers in the task's format, or with a label; None where none is expected."""
        if arm in self.formats:
            return self.formats[arm]
        labels = self.labels.get(arm, ())
        if not labels or all(label is None for label in self.expected_labels):
            return None
        return sum(label is not None for label in labels) / len(labels)

    @property
    def chance(self) -> str | None:
        """The arm that reads no question and does as well: not beaten, and the lead is less than what is asked for.

        None where the base knows more: then it is the training that took it away.
        """
        base, tuned = self.mean("baseline"), self.mean("tuned")
        for arm in TRIVIAL:
            rate = self.mean(arm)
            if rate is None or tuned is None or self.met.get(arm) == "beats":
                continue
            known = max(tuned, base or 0.0) - rate
            return arm if known < self.min_gain else None
        return None

    def always(self, arm: str) -> str:
        """Name what an arm does that reads no question: always answering one label, or giving the question back."""
        if arm == "copy":
            return "giving the question back"
        said = [*self.labels.get(arm, ())[:1], *self.texts.get(arm, ())[:1]]
        shown = next((one for one in said if one is not None), None)
        return (
            "always giving the commonest answer"
            if shown is None
            else f"always answering {wording.one_line(shown, 40)!r}"
        )
