"""Drift from the base as one sentence, for the terminal, the page and the note."""

from __future__ import annotations

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.wording import figure


def drift_sentence(experiment: Json, *, brief: bool = False) -> str:
    """Say what was measured, or why nothing was; empty where drift was switched off or not reached.

    The brief one fits a line of the terminal.
    """
    drift = reading.part(experiment, "drift")
    if not drift:
        return ""
    if drift.get("outcome") != "measured":
        return f"not measured: {reading.text(drift, 'reason', 'no reason was recorded')}"
    changed, of = (reading.text(drift, name, "?") for name in ("answers_changed", "prompts"))
    like = reading.part(drift, "like_task")
    tuned, base = (reading.text(like, name, "?") for name in ("tuned", "base"))
    kl = reading.number(drift, "mean_kl")
    if brief:
        distance = "no KL" if kl is None else f"KL {figure(kl, 2)}"
        return f"{changed} of {of} neutral answers changed, {distance}, {tuned} like the task (base {base})"
    distance = "no token KL" if kl is None else f"mean token KL {figure(kl, 3)}"
    in_format = f"{tuned} in the task's format ({base} by the base)"
    return f"{changed} of {of} neutral answers changed, {in_format}, {distance}"
