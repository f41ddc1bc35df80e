"""The arms of an experiment as plans: which model answers which prompts in which runtime, and what depends on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.data.trivial import Trivial
    from pytest_finetune.experiment import Experiment, Generation, OutsideArm

BASELINE: Final = "baseline"
PROMPTED: Final = "prompted"
BEST_PROMPT: Final = "best_prompt"
CONSTRAINED: Final = "constrained"
TUNED: Final = "tuned"

ModelKind = Literal["base", "tuned", "adapter", "bundle", "base_model", "answers", "majority", "copy"]
TrivialName = Literal["majority", "copy"]
PromptKind = Literal["zero-shot", "few-shot", "candidate"]
TRIVIAL: Final[frozenset[TrivialName]] = frozenset({"majority", "copy"})
"""Opponents that need no model: the commonest training answer, and the question given back."""
NO_RUNTIME: Final = "none"
_SEED: Final = "seed "
MUST_BEAT: Final = frozenset({"adapter", "bundle"})
"""What is in production, or was to be: a new adapter must beat it unless the experiment says otherwise."""


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """One arm before it answers; everything that its answers depend on stands here.

    `opponent` says that the tuned arm must beat this one before an adapter is kept, by at least `min_gain` (a share
    of rows; None: as much as over the base). Other arms are compared and shown. The base is always an opponent.
    `source` names what an arm from outside is: a key, a folder, a model, a file. Imported answers have no prompts,
    runtime or generation of ours. `run` counts repeated runs: each is answered anew and stored under its number.
    `seed` says which of several adapters answers; None is the one that is judged.
    """

    name: str
    model: ModelKind
    prompts: PromptKind | None
    runtime: str
    generation: Generation
    opponent: bool = False
    min_gain: float | None = None
    source: str | None = None
    run: int = 1
    seed: int | None = None

    def facts(self) -> JsonTree:
        """Return what the record says of the plan."""
        facts: JsonTree = {
            "model": self.model,
            "prompts": self.prompts,
            "opponent": self.opponent,
            "min_gain": self.min_gain,
        }
        if self.generation.constrain:
            facts["constrain"] = self.generation.constrain
        if self.seed is not None:
            facts["seed"] = self.seed
        return facts if self.source is None else {**facts, "source": self.source}

    def elsewhere(self, runtime: str) -> ArmPlan:
        """Return the same arm in another runtime, under a name of its own; it is no opponent."""
        return dataclasses.replace(self, name=f"{self.name}@{runtime}", runtime=runtime, opponent=False)

    def of_seed(self, seed: int) -> ArmPlan:
        """Return the arm of the adapter of one seed; it shows what the recipe does, and is no opponent."""
        return dataclasses.replace(self, name=seed_arm(seed), seed=seed)


def seed_arm(seed: int) -> str:
    """Return the name of the arm of one seed; with a space in it, it is that of no arm from outside."""
    return f"{_SEED}{seed}"


def is_seed_arm(name: str) -> bool:
    """Tell whether an arm is that of one of several seeds."""
    return name.startswith(_SEED)


def planned(
    experiment: Experiment, trivial: Trivial | None = None, *, constrained: bool = False
) -> dict[str, ArmPlan]:
    """Return the arms of an experiment by name.

    Those that it asks for, the opponent that needs no model, and the base under a grammar where `constrained` says so.
    """

    free, prompt_gain = unconstrained(experiment), experiment.decision.prompt_gain

    def plan(name: str, model: ModelKind, prompts: PromptKind, **more: Any) -> ArmPlan:
        return ArmPlan(name, model, prompts, experiment.runtimes[0], free, **more)

    plans = [plan(BASELINE, "base", "zero-shot", opponent=True)]
    if experiment.prompt.few_shot:
        plans.append(plan(PROMPTED, "base", "few-shot", opponent=True, min_gain=prompt_gain))
    if experiment.prompt.candidates:
        plans.append(plan(BEST_PROMPT, "base", "candidate", opponent=True, min_gain=prompt_gain))
    if constrained or experiment.generation.constrain:
        plans.append(under_grammar(experiment))
    if trivial is not None:
        plans.append(without_model(experiment, trivial.name))
    tuned = plan(TUNED, "tuned", "zero-shot")
    plans += [tuned, *(tuned.elsewhere(runtime) for runtime in experiment.runtimes[1:])]
    plans += [tuned.of_seed(seed) for seed in experiment.training.seeds]
    plans += [_from_outside(experiment, name, arm) for name, arm in experiment.arms.items()]
    return {one.name: one for one in plans}


def without_model(experiment: Experiment, name: TrivialName) -> ArmPlan:
    """Return the arm of an opponent that needs no model: any demonstrated gain over it will do, but one must be."""
    return ArmPlan(name, name, None, NO_RUNTIME, unconstrained(experiment), opponent=True, min_gain=0.0)


def under_grammar(experiment: Experiment) -> ArmPlan:
    """Return the arm of the base whose answers are held to the contract."""
    held = dataclasses.replace(experiment.generation, constrain="contract")
    gain = experiment.decision.prompt_gain
    return ArmPlan(
        CONSTRAINED, "base", "zero-shot", experiment.runtimes[0], held, opponent=True, min_gain=gain
    )


def unconstrained(experiment: Experiment) -> Generation:
    """Return how all arms decode but the constrained one."""
    return dataclasses.replace(experiment.generation, constrain=None)


def repeated(experiment: Experiment) -> tuple[ArmPlan, ...]:
    """Return the further runs of the base that show its noise; with sampling each draws anew."""
    first = planned(experiment)[BASELINE]
    return tuple(
        dataclasses.replace(
            first,
            name=f"{BASELINE} run {number}",
            opponent=False,
            run=number,
            generation=_drawn_anew(first.generation, number),
        )
        for number in range(2, experiment.decision.noise_runs + 2)
    )


def _drawn_anew(generation: Generation, number: int) -> Generation:
    """Return settings with a seed far from those of the other runs; a batch adds its number to it."""
    if not generation.do_sample:
        return generation
    return dataclasses.replace(generation, seed=generation.seed + 1_000_003 * (number - 1))


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
        generation=unconstrained(experiment),
        opponent=kind in MUST_BEAT if arm.must_beat is None else arm.must_beat,
        min_gain=arm.min_gain,
        source=source,
    )


_OWN: Final = frozenset({BASELINE, PROMPTED, BEST_PROMPT, CONSTRAINED, *TRIVIAL})


def asking_order(names: Iterable[str]) -> list[str]:
    """Return arms in the order of asking: the tuned one first, since without an adapter there is nothing to judge.

    The experiment's own arms come before those from outside, so that its base is loaded once.
    """
    return sorted(names, key=lambda name: (name != TUNED, not (name in _OWN or is_seed_arm(name))))


def plan_facts(plans: Mapping[str, ArmPlan]) -> dict[str, JsonTree]:
    """Return the record's form of all plans: from it the decision knows whom the tuned arm must beat."""
    return {name: {**plan.facts(), "runtime": plan.runtime} for name, plan in plans.items()}
