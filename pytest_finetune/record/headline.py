"""The one sentence of an experiment: its verdict, or why there is none."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.wording import one_line, size

BLOCKED: Final = (
    "Failed: not run: "  # how the message of a test begins that an earlier failure kept from running
)

Tone = Literal["good", "warn", "bad", "none"]


class Headline(NamedTuple):
    """A verdict word with its reasons, and the one change to make next (empty where there is none)."""

    word: str
    tone: Tone
    reason: str
    change: str = ""
    because: str = ""
    further: tuple[str, ...] = ()
    risks: tuple[str, ...] = ()

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
        change=_without_stop(reading.text(change, "change")),
        because=one_line(reading.text(change, "because")),
        further=tuple(reasons[1:]),
        risks=tuple(one_line(risk) for risk in reading.listed(decision, "risks")),
    )


def _stopped(experiment: Json, record: Json) -> Headline:
    """Name what ended a run before it could be judged: a test, the gate, the card, or no --finetune."""
    gate = reading.part(experiment, "gate")
    failed = reading.failed_tests(record, experiment)
    memory = reading.part(experiment, "memory")
    if failed:
        test = failed[0]
        message = reading.text(test, "message").removeprefix(BLOCKED)
        return _at_stage(experiment, reading.text(test, "stage"), message, reading.text(test, "nodeid"))
    if gate:
        stage, because, by = (reading.text(gate, key) for key in ("stage", "because", "by"))
        return _at_stage(experiment, stage, because, by)
    if memory.get("fits") == "does not fit" and not reading.part(experiment, "training"):
        return _too_large(memory)
    if reading.cheap_only(record):
        return Headline(
            "NOT RUN",
            "none",
            "Only the data and memory stages ran; nothing was trained or evaluated.",
            "run the same command with --finetune",
        )
    reasons = reading.listed(reading.part(experiment, "decision"), "reasons")
    ended = "The run ended before its rules were decided."
    return Headline("NO DECISION", "warn", one_line(reasons[0]) if reasons else ended)


def _at_stage(experiment: Json, stage: str, message: str, test: str) -> Headline:
    """Say what the stage said; rows at fault are the next change, otherwise the test is."""
    memory = reading.part(experiment, "memory")
    if stage == "fit" and memory.get("fits") == "does not fit":
        return _too_large(memory)
    lines = message.strip().splitlines() or ["no message was recorded"]
    reason = f"The {one_line(stage or 'first')} stage failed: {one_line(lines[0])}"
    found = _at_fault(experiment, f"{test}\n{message}") if stage == "data" else {}
    if found:
        because = one_line(f"{place(found)}: {reading.text(found, 'read')}")
        return Headline("STOPPED", "bad", reason, _without_stop(reading.text(found, "fix")), because)
    return Headline("STOPPED", "bad", reason, f"look at {one_line(test or 'the failed test')}")


def _at_fault(experiment: Json, said: str) -> Json:
    """Find the first error of the rows; the charter counts only where the failure speaks of it."""
    data, charter = (
        reading.parts(reading.part(experiment, part), "findings") for part in ("data", "charter")
    )
    asked = [*data, *(charter if "charter" in said.lower() else [])]
    return next((found for found in asked if found.get("severity") == "error"), {})


def _too_large(memory: Json) -> Headline:
    needs, budget = (size(reading.number(memory, key)) for key in ("predicted_peak_bytes", "budget_bytes"))
    reason = f"Training does not fit: {needs} predicted, the budget is {budget}."
    enough = next((remedy for remedy in reading.parts(memory, "remedies") if remedy.get("enough")), None)
    if enough is None:
        return Headline(
            "STOPPED", "bad", reason, "a smaller base model or a larger card", "no single change is enough"
        )
    because = f"it is predicted to need {size(reading.number(enough, 'peak_bytes'))}"
    return Headline("STOPPED", "bad", reason, one_line(reading.text(enough, "change")), because)


def _without_stop(text: str) -> str:
    return one_line(text).removesuffix(".")


def place(found: Json) -> str:
    """Name where a finding was made: file and line, as far as they are known."""
    line = reading.whole(found, "line")
    file = one_line(reading.text(found, "file", reading.text(found, "rule", "somewhere")))
    return f"{file}:{line}" if line else file
