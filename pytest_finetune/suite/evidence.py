"""Evidence: facts that travel as one JSON string on the test reports, so serial runs and xdist write one record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import pytest

ATTRIBUTE: Final = "pytest_finetune_evidence"


class Fact(NamedTuple):
    """One part of an experiment's record: where it belongs and what it holds (JSON only)."""

    experiment: str
    part: tuple[str, ...]
    value: Any

    @property
    def id(self) -> str:
        """Return the fact's identity: a later fact of the same id adds to the earlier, key by key."""
        return "/".join((self.experiment, *self.part))


def remember(facts: dict[str, Fact], fact: Fact) -> None:
    """Add a fact to those that are known; mappings of the same part are merged, anything else is replaced."""
    known = facts.get(fact.id)
    if known is not None and isinstance(known.value, Mapping) and isinstance(fact.value, Mapping):
        fact = fact._replace(value={**known.value, **fact.value})
    facts[fact.id] = fact


@dataclass(slots=True)
class Outbox:
    """Facts that were established since the last report."""

    facts: list[Fact] = field(default_factory=list)

    def put(self, fact: Fact) -> None:
        """Keep a fact until the next report is made."""
        self.facts.append(fact)

    def send(self, report: pytest.TestReport, stage: str, experiment: str | None) -> None:
        """Put everything on the report, as one JSON string: pytest-xdist carries plain attributes."""
        facts, self.facts = self.facts, []
        letter = {"stage": stage, "experiment": experiment, "facts": [list(fact) for fact in facts]}
        setattr(report, ATTRIBUTE, json.dumps(letter, separators=(",", ":")))


@dataclass(slots=True)
class Facts:
    """What was recorded of one experiment in this process; each fact also leaves with the next report."""

    experiment: str
    outbox: Outbox
    known: dict[str, Fact] = field(default_factory=dict)

    def record(self, part: Sequence[str], value: object) -> None:
        """Record a fact: where it belongs, and what it says (JSON only)."""
        fact = Fact(self.experiment, tuple(part), value)
        remember(self.known, fact)
        self.outbox.put(fact)

    def tree(self) -> dict[str, Any]:
        """Return everything that was recorded so far, as the record nests it."""
        return grow(self.known.values())


@dataclass(slots=True)
class TestOutcome:
    """The outcome of one test of ours, over its three phases."""

    __test__ = False

    nodeid: str
    stage: str
    experiment: str | None
    outcome: str = "passed"
    seconds: float = 0.0
    message: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the record's form."""
        return {
            "nodeid": self.nodeid,
            "stage": self.stage,
            "experiment": self.experiment,
            "outcome": self.outcome,
            "seconds": round(self.seconds, 3),
            "message": self.message,
        }


@dataclass(slots=True)
class Evidence:
    """All facts and outcomes of a run, gathered where reports arrive: the controller, or the only process."""

    facts: dict[str, Fact] = field(default_factory=dict)
    tests: dict[str, TestOutcome] = field(default_factory=dict)

    def receive(self, report: pytest.TestReport) -> None:
        """Take what a report carries; reports without our letter are not ours."""
        letter = getattr(report, ATTRIBUTE, None)
        if letter is None:
            return
        content = json.loads(letter)
        for experiment, part, value in content["facts"]:
            remember(self.facts, Fact(experiment, tuple(part), value))
        test = self.tests.setdefault(
            report.nodeid, TestOutcome(report.nodeid, content["stage"], content["experiment"])
        )
        _update(test, report)

    def take(self, outbox: Outbox) -> None:
        """Take what was never sent: an interrupted test makes no report."""
        for fact in outbox.facts:
            remember(self.facts, fact)
        outbox.facts = []

    def experiments(self) -> list[str]:
        """Return the names of the experiments, in the order in which they were met."""
        return list(dict.fromkeys(fact.experiment for fact in self.facts.values()))

    def tree(self, experiment: str) -> dict[str, Any]:
        """Return the experiment's facts as one nested mapping."""
        return grow(fact for fact in self.facts.values() if fact.experiment == experiment)


def grow(facts: Iterable[Fact]) -> dict[str, Any]:
    """Put each fact's value at its part; mappings that meet are merged.

    >>> grow([Fact("a", ("arms", "tuned"), {"answers": 3}), Fact("a", ("arms", "tuned", "rules"), {})])
    {'arms': {'tuned': {'answers': 3, 'rules': {}}}}
    """
    tree: dict[str, Any] = {}
    for fact in facts:
        at = tree
        for name in fact.part[:-1]:
            at = at.setdefault(name, {})
        last = fact.part[-1]
        if isinstance(fact.value, Mapping) and isinstance(at.get(last), dict):
            at[last].update(fact.value)
        else:
            at[last] = dict(fact.value) if isinstance(fact.value, Mapping) else fact.value
    return tree


def _update(test: TestOutcome, report: pytest.TestReport) -> None:
    test.seconds += report.duration
    if report.failed:
        test.outcome = "failed" if report.when == "call" and test.outcome != "error" else "error"
        test.message = first_line(report)
    elif report.skipped and test.outcome == "passed":
        test.outcome = "xfailed" if hasattr(report, "wasxfail") else "skipped"
        test.message = skip_reason(report)


def first_line(report: pytest.TestReport) -> str:
    """Return in one line why a report failed; a failed assertion is told with the first line of its explanation."""
    crash = getattr(getattr(report.longrepr, "reprcrash", None), "message", None)
    text = crash or (str(report.longrepr) if report.longrepr is not None else "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    told = lines[0].removeprefix("AssertionError: ").removeprefix("assert ")
    if lines[0].startswith("assert ") and len(lines) > 1:
        told = f"{told}; {lines[1]}"
    return told[:500]


def skip_reason(report: pytest.TestReport) -> str:
    """Return why a report was skipped or expected to fail."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")[:500]
    return str(getattr(report, "wasxfail", ""))[:500]
