"""The one sentence of an experiment: its verdict, or why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from pytest_finetune.record.inputs import Finding, MemoryFacts
from pytest_finetune.record.model import RecordedExperiment, RecordedRun
from pytest_finetune.record.outcomes import RecordedTest, WeighedRisk
from pytest_finetune.record.plain_words import plain_sentence
from pytest_finetune.record.remarks import place
from pytest_finetune.wording import counted, one_line, size

BLOCKED: Final = (
    "Failed: not run: "  # how the message of a test begins that an earlier failure kept from running
)
_TO_DO: Final = "to do: "
_DRY_RUN: Final = "--finetune-executor-dry-run"
_PRINTED: Final = "was printed, not sent"  # how the message of a test ends that waits for a job of a dry run

Tone = Literal["good", "warn", "bad", "none"]


class Headline(NamedTuple):
    """A verdict word, one plain sentence, and the one thing to do next (empty where there is none).

    `exact` is the first reason of the decision where `reason` words it more plainly.
    """

    word: str
    tone: Tone
    reason: str
    change: str = ""
    because: str = ""
    further: tuple[str, ...] = ()
    risks: tuple[WeighedRisk, ...] = ()
    exact: str = ""

    @property
    def label(self) -> str:
        """What the next thing to do is called: nothing has to change in what is kept."""
        return "next" if self.tone == "good" else "next change"

    @property
    def counted_risks(self) -> str:
        """How many risks there are, and of which weight; empty where there is none."""
        if not self.risks:
            return ""
        weights = Counter(risk.weight for risk in self.risks if risk.weight)
        of_them = ", ".join(f"{number} {weight}" for weight, number in weights.items())
        return counted(len(self.risks), "risk") + (f": {of_them}" if of_them else "")

    @property
    def next(self) -> str:
        """What to do next with its reason, as one sentence; empty where there is none."""
        return f"{self.change} (because {self.because})" if self.change and self.because else self.change


def headline(experiment: RecordedExperiment, run: RecordedRun) -> Headline:
    """Say how an experiment ended; where nothing could be judged, name the first thing that stopped it."""
    decision = experiment.decision
    if run.broken_off and (experiment.stopped or decision.undecided):
        return _broken_off(experiment)
    if experiment.stopped:
        return _stopped(experiment, run)
    tones: dict[str, Tone] = {"keep": "good", "iterate": "warn", "discard": "bad"}
    reasons = [one_line(reason) for reason in decision.reasons]
    first = reasons[0] if reasons else "The record holds no reason for this verdict."
    plain = "" if decision.undecided else plain_sentence(experiment)
    return Headline(
        word=one_line(decision.verdict).upper() + (" (undecided)" if decision.undecided else ""),
        tone=tones.get(decision.verdict, "none"),
        reason=plain or first,
        change=_without_stop(decision.next_change.change)
        or (_after_keep(run, decision.weighed) if decision.keep else ""),
        because=one_line(decision.next_change.because),
        further=tuple(reasons[1:]),
        risks=decision.weighed,
        exact=first if plain else "",
    )


def _after_keep(run: RecordedRun, risks: Sequence[WeighedRisk]) -> str:
    """Say what to do with an adapter that is kept."""
    promote = "promote with --finetune-promote"
    if run.exit_status:
        return f"mend the failed tests, then {promote}"
    if any(note.startswith("narrowed run") for note in run.notes):
        return f"run the whole suite and {promote}"
    if "--finetune-promote" in run.command:
        return "check the bundle where it will be served: pytest-finetune verify FOLDER"
    if not risks:
        return promote
    return f"weigh the {'risk' if len(risks) == 1 else 'risks'}, then {promote}"


def _broken_off(experiment: RecordedExperiment) -> Headline:
    stage = f"in the {one_line(experiment.gate.stage)} stage" if experiment.gate else "before it was judged"
    again = "run the same command again: what is stored is not made again"
    return Headline("BROKEN OFF", "warn", f"The run was stopped {stage}.", again)


def _stopped(experiment: RecordedExperiment, run: RecordedRun) -> Headline:
    """Name what ended a run before it could be judged: a test, the gate, the card, or no --finetune."""
    gate, memory, failed = experiment.gate, experiment.memory, run.failed_tests(experiment)
    if failed:
        message = failed[0].message.removeprefix(BLOCKED)
        closed_it = (
            gate and gate.by == failed[0].nodeid
        )  # a test of the rules may be what asks for the training
        stage = gate.stage if closed_it else failed[0].stage
        return _at_stage(experiment, stage, message, failed[0].nodeid)
    if gate:
        return _at_stage(experiment, gate.stage, gate.because, gate.by)
    if memory.fits == "does not fit" and not experiment.training:
        return _too_large(memory)
    if run.cheap_only:
        return Headline(
            "NOT RUN",
            "none",
            "Only the data and memory stages ran; nothing was trained or evaluated.",
            "run the same command with --finetune",
        )
    jobs = {one.message for one in run.tests if _printed(one, experiment)}
    if jobs:
        return _dry_run(len(jobs))
    reasons = experiment.decision.reasons
    ended = "The run ended before its rules were decided."
    return Headline("NO DECISION", "warn", one_line(reasons[0]) if reasons else ended)


def _printed(test: RecordedTest, experiment: RecordedExperiment) -> bool:
    return test.experiment in ("", experiment.name) and test.message.endswith(_PRINTED)


def _dry_run(jobs: int) -> Headline:
    """Say what a dry run would send: the jobs of the answers have no keys before there is an adapter."""
    reason = "1 job would be sent, its answers' jobs after it."
    if jobs > 1:
        reason = f"{jobs} jobs would be sent, their answers' jobs after them."
    return Headline("NOT RUN", "none", reason, f"leave out {_DRY_RUN} to send")


def _at_stage(experiment: RecordedExperiment, stage: str, message: str, test: str) -> Headline:
    """Say what the stage said; rows at fault are the next change, otherwise the test is."""
    if stage == "fit" and experiment.memory.fits == "does not fit":
        return _too_large(experiment.memory)
    lines = message.removeprefix("Failed: ").strip().splitlines() or ["no message was recorded"]
    lacks = _lacking(experiment, test)
    failed = f"The rules were not asked: {lacks}" if lacks else f"The {one_line(stage or 'first')} stage"
    reason = f"{failed} failed: {one_line(lines[0])}"
    found = _at_fault(experiment, f"{test}\n{message}") if stage == "data" else None
    if found:
        because = one_line(f"{place(found)}: {found.read}")
        return Headline("STOPPED", "bad", reason, _without_stop(found.fix), because)
    # Our own messages end with what to do, set in under what happened or called so.
    told = len(lines) > 1 and lines[-1].startswith(("  ", _TO_DO))
    remedy = lines[-1].removeprefix(_TO_DO).strip() if told else None
    at = f"mend what failed: {lacks}" if lacks else f"look at {test or 'the failed test'}"
    return Headline("STOPPED", "bad", reason, one_line(remedy or at))


def _lacking(experiment: RecordedExperiment, test: str) -> str:
    """Return what a rule's test could not be handed; empty where a gate says better what failed."""
    rules = () if experiment.gate else experiment.rules.values()
    return next((one_line(rule.lacks) for rule in rules if rule.raw.get("nodeid") == test), "")


def _at_fault(experiment: RecordedExperiment, said: str) -> Finding | None:
    """Find the first error of the rows; the charter counts only where the failure speaks of it."""
    charter = experiment.charter.findings if "charter" in said.lower() else ()
    return next((one for one in (*experiment.data.findings, *charter) if one.severity == "error"), None)


def _too_large(memory: MemoryFacts) -> Headline:
    needs, budget = size(memory.predicted_peak_bytes), size(memory.budget_bytes)
    reason = f"Training does not fit: {needs} predicted, the budget is {budget}."
    enough = next((remedy for remedy in memory.remedies if remedy.enough), None)
    if enough is None:
        return Headline(
            "STOPPED", "bad", reason, "a smaller base model or a larger card", "no single change is enough"
        )
    because = f"it is predicted to need {size(enough.peak_bytes)}"
    return Headline("STOPPED", "bad", reason, one_line(enough.change), because)


def _without_stop(text: str) -> str:
    return one_line(text).removesuffix(".")
