"""The gate: what failed closes the later stages of its experiment, and the blocked tests say so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pytest_finetune.suite.markers import ExperimentRef, Stage
from pytest_finetune.wording import one_line


class Closed(NamedTuple):
    """What closed the gate: the stage, the test or check, and one line of why."""

    stage: Stage
    by: str
    because: str

    @property
    def message(self) -> str:
        """Return what a blocked test says: one line, whose foreign text a terminal does not obey."""
        why = f": {one_line(self.because, 300)}" if self.because else ""
        return f"not run: the {self.stage.word} stage failed in {one_line(self.by)}{why}"


@dataclass(slots=True)
class Gate:
    """Which experiments are closed; the first failure of an experiment is the one that is named.

    `running` is the id of the test that runs.
    """

    closed: dict[ExperimentRef, Closed] = field(default_factory=dict)
    running: str = ""

    def close(self, experiment: ExperimentRef, stage: Stage, by: str, because: str = "") -> bool:
        """Close the experiment's later stages; False when they are closed already."""
        closed = Closed(stage, by, because)
        return self.closed.setdefault(experiment, closed) is closed

    def blocks(self, experiment: ExperimentRef, stage: Stage) -> Closed | None:
        """Return what blocks a test of that stage, or None.

        A failed data or fit test blocks everything that needs a model; the training blocks what comes after it.
        """
        found = self.closed.get(experiment)
        if found is None or not stage.needs_model or stage <= found.stage:
            return None
        return found
