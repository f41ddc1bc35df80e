"""The one sentence of an experiment: its verdict, or why there is none."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.wording import counted, one_line, size

Tone = Literal["good", "warn", "bad", "none"]


class Headline(NamedTuple):
    """A verdict word with its reasons, and the one change to make next (empty where there is none)."""

    word: str
    tone: Tone
    reason: str
    change: str = ""
    because: str = ""
    further: tuple[str, ...] = ()

    @property
    def next(self) -> str:
        """The next change with its reason, as one sentence; empty where there is none."""
        return f"{self.change} (because {self.because})" if self.change and self.because else self.change


def headline(experiment: Json, record: Json) -> Headline:
    """Say how an experiment ended; where nothing could be judged, name the first thing that stopped it."""
    decision = reading.part(experiment, "decision")
    verdict = reading.text(decision, "verdict")
    if not verdict or (decision.get("undecided") and not reading.arms(experiment)):
        return _stopped(experiment, record)
    tones: dict[str, Tone] = {"keep": "good", "iterate": "warn", "discard": "bad"}
    reasons = [one_line(reason) for reason in reading.listed(decision, "reasons")]
    change = reading.part(decision, "next_change")
    return Headline(
        word=one_line(verdict).upper() + (" (undecided)" if decision.get("undecided") else ""),
        tone=tones.get(verdict, "none"),
        reason=reasons[0] if reasons else "The record holds no reason for this verdict.",
        change=one_line(reading.text(change, "change")),
        because=one_line(reading.text(change, "because")),
        further=tuple(reasons[1:]),
    )


def _stopped(experiment: Json, record: Json) -> Headline:
    errors = [found for found in reading.findings(experiment) if found.get("severity") == "error"]
    if errors:
        first = errors[0]
        return Headline(
            "STOPPED",
            "bad",
            f"{counted(len(errors), 'error')} in data or charter closed the gate; nothing was trained.",
            one_line(reading.text(first, "fix")),
            one_line(f"{place(first)}: {reading.text(first, 'read')}"),
        )
    memory = reading.part(experiment, "memory")
    if memory.get("fits") == "does not fit" and not reading.part(experiment, "training"):
        needs, budget = reading.number(memory, "predicted_peak_bytes"), reading.number(memory, "budget_bytes")
        enough = next((r for r in reading.parts(memory, "remedies") if r.get("enough")), None)
        return Headline(
            "STOPPED",
            "bad",
            f"Training does not fit: {size(needs)} predicted, the budget is {size(budget)}.",
            one_line(reading.text(enough or {}, "change")),
            f"it is predicted to need {size(reading.number(enough, 'peak_bytes'))}" if enough else "",
        )
    return _stopped_by_test(experiment, record)


def _stopped_by_test(experiment: Json, record: Json) -> Headline:
    failed, gate = reading.failed_tests(record, experiment), reading.part(experiment, "gate")
    if failed:
        test = failed[0]
        said = reading.text(test, "message").strip().splitlines() or ["no message was recorded"]
        stage, where = reading.text(test, "stage"), reading.text(test, "nodeid", "the failed test")
    else:
        said = reading.text(gate, "because").strip().splitlines() or ["no message was recorded"]
        stage, where = reading.text(gate, "stage"), reading.text(gate, "by", "the stage before")
    if failed or gate:
        reason = f"The {one_line(stage or 'first')} stage failed: {one_line(said[0])}"
        return Headline("STOPPED", "bad", reason, f"look at {one_line(where)}")
    if "--finetune" not in reading.text(record, "command").split() and not reading.arms(experiment):
        return Headline(
            "NOT RUN",
            "none",
            "Only the data and memory stages ran; nothing was trained or evaluated.",
            "run the same command with --finetune",
        )
    return Headline("NO DECISION", "warn", "The run ended before its rules were decided.")


def place(found: Json) -> str:
    """Name where a finding was made: file and line, as far as they are known."""
    line = reading.whole(found, "line")
    file = one_line(reading.text(found, "file", reading.text(found, "rule", "somewhere")))
    return f"{file}:{line}" if line else file
