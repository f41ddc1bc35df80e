"""How far the tuned model has moved from its base on neutral prompts, as a record tells it."""

from __future__ import annotations

from pytest_finetune.record.lenient import Facts, Span
from pytest_finetune.wording import counted


class LikeTask(Facts):
    """Answers to neutral prompts that have the task's format."""

    base: int | None
    tuned: int | None
    p_value: float | None


class DriftRow(Facts):
    id: str
    prompt: str
    base: str
    tuned: str
    kl: float | None


class DriftBefore(Facts):
    """The drift of the same training without replay, as a stored run measured it."""

    run: str
    prompts: int | None
    answers_changed: int | None
    mean_kl: float | None
    like_task: LikeTask

    @property
    def words(self) -> str:
        """The drift without replay."""
        changed, tuned = ("?" if one is None else one for one in (self.answers_changed, self.like_task.tuned))
        return f"{changed} of {counted(self.prompts, 'answer')} changed, {tuned} in the task's format"


class DriftFacts(Facts):
    """How far the tuned model has moved from the base on neutral prompts."""

    outcome: str
    reason: str
    kl_reason: str
    file: str
    runtime: str
    prompts: int | None
    answers_changed: int | None
    null_changed: int | None
    interval: Span | None
    tokens: int | None
    mean_kl: float | None
    max_kl: float | None
    told_by: str
    like_task: LikeTask
    rows: tuple[DriftRow, ...]
    without_replay: DriftBefore
