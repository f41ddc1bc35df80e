"""The arms of an experiment as plans: which model answers which prompts in which runtime, and what hangs on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment, Generation

BASELINE: Final = "baseline"
PROMPTED: Final = "prompted"
TUNED: Final = "tuned"

ModelKind = Literal["base", "tuned"]
PromptKind = Literal["zero-shot", "few-shot"]


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """One arm before it answers; everything that its answers hang on stands here.

    `opponent` says that the tuned arm must beat this one before an adapter is kept, by at least `min_gain` (a share
    of rows; None: as much as over the base). Other arms are compared and shown. The base is always an opponent.
    """

    name: str
    model: ModelKind
    prompts: PromptKind
    runtime: str
    generation: Generation
    opponent: bool = False
    min_gain: float | None = None

    def facts(self) -> dict[str, Any]:
        """Return what the record says of the plan."""
        return {
            "model": self.model,
            "prompts": self.prompts,
            "opponent": self.opponent,
            "min_gain": self.min_gain,
        }

    def elsewhere(self, runtime: str) -> ArmPlan:
        """Return the same arm in another runtime, under a name of its own; it is no opponent."""
        return dataclasses.replace(self, name=f"{self.name}@{runtime}", runtime=runtime, opponent=False)


def planned(experiment: Experiment) -> dict[str, ArmPlan]:
    """Return the arms that an experiment asks for, by name."""

    def plan(name: str, model: ModelKind, prompts: PromptKind, **more: Any) -> ArmPlan:
        return ArmPlan(name, model, prompts, experiment.runtimes[0], experiment.generation, **more)

    plans = [plan(BASELINE, "base", "zero-shot", opponent=True)]
    if experiment.prompt.few_shot:
        plans.append(
            plan(PROMPTED, "base", "few-shot", opponent=True, min_gain=experiment.decision.prompt_gain)
        )
    plans.append(plan(TUNED, "tuned", "zero-shot"))
    return {one.name: one for one in plans}


def asking_order(names: Iterable[str]) -> list[str]:
    """Return arms in the order of asking: the tuned one first, since without an adapter there is nothing to judge."""
    return sorted(names, key=lambda name: name != TUNED)


def plan_facts(plans: Mapping[str, ArmPlan]) -> dict[str, dict[str, Any]]:
    """Return the record's form of all plans: from it the decision knows whom the tuned arm must beat."""
    return {name: {**plan.facts(), "runtime": plan.runtime} for name, plan in plans.items()}
