"""The arms of an experiment as plans: which model answers which prompts in which runtime, and what hangs on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment, Generation, OutsideArm

BASELINE: Final = "baseline"
PROMPTED: Final = "prompted"
TUNED: Final = "tuned"

ModelKind = Literal["base", "tuned", "adapter", "bundle", "base_model", "answers"]
PromptKind = Literal["zero-shot", "few-shot"]
MUST_BEAT: Final = frozenset({"adapter", "bundle"})
"""What is in production, or was to be: a new adapter must beat it unless the experiment says otherwise."""


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """One arm before it answers; everything that its answers hang on stands here.

    `opponent` says that the tuned arm must beat this one before an adapter is kept, by at least `min_gain` (a share
    of rows; None: as much as over the base). Other arms are compared and shown. The base is always an opponent.
    `source` names what an arm from outside is: a key, a folder, a model, a file. Imported answers have no prompts,
    runtime or generation of ours.
    """

    name: str
    model: ModelKind
    prompts: PromptKind | None
    runtime: str
    generation: Generation
    opponent: bool = False
    min_gain: float | None = None
    source: str | None = None

    def facts(self) -> dict[str, Any]:
        """Return what the record says of the plan."""
        facts = {
            "model": self.model,
            "prompts": self.prompts,
            "opponent": self.opponent,
            "min_gain": self.min_gain,
        }
        return facts if self.source is None else {**facts, "source": self.source}

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
    tuned = plan(TUNED, "tuned", "zero-shot")
    plans += [tuned, *(tuned.elsewhere(runtime) for runtime in experiment.runtimes[1:])]
    plans += [_from_outside(experiment, name, arm) for name, arm in experiment.arms.items()]
    return {one.name: one for one in plans}


def _from_outside(experiment: Experiment, name: str, arm: OutsideArm) -> ArmPlan:
    sources: dict[ModelKind, str | None] = {
        "adapter": arm.adapter,
        "bundle": arm.bundle,
        "base_model": arm.base_model,
        "answers": arm.answers,
    }
    kind, source = next((kind, source) for kind, source in sources.items() if source is not None)
    imported = kind == "answers"
    return ArmPlan(
        name=name,
        model=kind,
        prompts=None if imported else "zero-shot",
        runtime="imported" if imported else experiment.runtimes[0],
        generation=experiment.generation,
        opponent=kind in MUST_BEAT if arm.must_beat is None else arm.must_beat,
        min_gain=arm.min_gain,
        source=source,
    )


def asking_order(names: Iterable[str]) -> list[str]:
    """Return arms in the order of asking: the tuned one first, since without an adapter there is nothing to judge.

    The experiment's own arms come before those from outside, so that its base is loaded once.
    """
    return sorted(names, key=lambda name: (name != TUNED, name not in {BASELINE, PROMPTED}))


def plan_facts(plans: Mapping[str, ArmPlan]) -> dict[str, dict[str, Any]]:
    """Return the record's form of all plans: from it the decision knows whom the tuned arm must beat."""
    return {name: {**plan.facts(), "runtime": plan.runtime} for name, plan in plans.items()}
