"""What a job asks for: the first listed card that holds the plan, and the time that the last one like it took."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_finetune.executors.protocol import Resources
from pytest_finetune.memory.hardware.cards import find_card
from pytest_finetune.memory.hardware.detect import parse_budget
from pytest_finetune.memory.plan.explain import on_more_cards
from pytest_finetune.memory.plan.figures import NotPlannedError
from pytest_finetune.memory.plan.plan import DOES_NOT_FIT
from pytest_finetune.memory.plan.planner import Planner
from pytest_finetune.memory.plan.remedies import over_cards
from pytest_finetune.suite.steps.planning import planned
from pytest_finetune.wording import size

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.memory.hardware.budget import Budget
    from pytest_finetune.memory.plan.plan import MemoryPlan
    from pytest_finetune.suite.context import Context

GUESSED_MINUTES: Final = 60
_SPARE: Final = 1.5  # a shared disk or a slower node must not end a job that goes well
_START_MINUTES: Final = 10
_GiB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Chosen:
    """The card that jobs are sent to: its budget, the name under which it is listed, and what the training needs.

    `machine_bytes` is what it takes of the machine's own memory. `refusal` says why none of the listed cards will do;
    the largest stands here then.
    """

    budget: Budget
    name: str
    needed_bytes: int | None
    refusal: str | None = None
    machine_bytes: int = 0

    @property
    def device(self) -> str:
        """The device as a key names it before a job has told its own."""
        return f"cuda:{find_card(self.name).key}"


def chosen_card(context: Context, longest: int | None) -> Chosen | None:
    """Return the first listed card that holds the training; None where none is listed.

    A training that cannot be planned goes to the first: nobody knows better.
    """
    names, planner = context.experiment.executor.cards, Planner(context.store)
    budgets = {name: parse_budget(name, headroom=context.headroom) for name in names}
    plans: dict[str, MemoryPlan] = {}
    for name, budget in budgets.items():
        try:
            plan = planned(context, longest, budget, planner)
        except NotPlannedError:
            return Chosen(budget, name, None)
        plans[name] = plan.on(budget.family)
        if plan.verdict(budget) != DOES_NOT_FIT:
            return Chosen(budget, name, plans[name].needed_bytes, machine_bytes=_in_the_machine(plans[name]))
    if not names:
        return None
    told = ", ".join(
        f"{name} has {size(budgets[name].usable_bytes)} of the {size(plans[name].needed_bytes)} needed"
        for name in names
    )
    largest = max(names, key=lambda name: budgets[name].usable_bytes)
    more = _over_cards(plans, budgets, planner) or on_more_cards(plans[largest])
    refusal = (
        f"no listed card holds this training: {told}\n  list a larger card under executor.cards, or make it smaller: "
        f"pytest-finetune plan --budget {largest} names the changes that are enough\n  {more}"
    )
    needed = plans[largest].needed_bytes
    return Chosen(budgets[largest], largest, needed, refusal, _in_the_machine(plans[largest]))


def _over_cards(
    plans: Mapping[str, MemoryPlan], budgets: Mapping[str, Budget], planner: Planner
) -> str | None:
    """Say on which listed card, and how many of it, the training fits when its model is shared out."""
    for name, plan in plans.items():
        remedy = over_cards(plan, budgets[name], planner)
        if remedy is not None and remedy.enough:
            return (
                f"or share it out over {remedy.cards} of {name}, {size(remedy.needed_bytes)} on each (planned, not "
                f"measured on cards): training: {{launcher: {{processes: {remedy.cards}}}, shard: true}}"
            )
    return None


def _in_the_machine(plan: MemoryPlan) -> int:
    """Return what the processes take of the machine's memory: each reads the whole base before it is shared out."""
    ranks = plan.workload.ranks
    return plan.needed_bytes if ranks == 1 else ranks * ranks * plan.figures.resident


def resources(context: Context, chosen: Chosen | None, kind: str, device: str) -> Resources:
    """Return what a job asks for; `kind` is that of its result, `device` what it runs on."""
    experiment = context.experiment
    asked = experiment.executor
    needed = chosen.machine_bytes if chosen else 0
    processes = experiment.training.launcher.processes if kind == "adapters" else 1
    return Resources(
        card=chosen.name if chosen else None,
        gpus=processes if device.startswith("cuda") else 0,
        memory=asked.memory or max(16, math.ceil(needed / _GiB) + 8),
        minutes=minutes(context, kind),
        engine=asked.submitit,
    )


def minutes(context: Context, kind: str) -> int:
    """Return the time limit: what the last such step took with some to spare, else the stated guess, else ours."""
    last = context.store.last(_took(context.experiment, kind))
    seconds = None if last is None else last.get("seconds")
    if isinstance(seconds, int | float):
        return math.ceil(_SPARE * seconds / 60) + _START_MINUTES
    return context.experiment.executor.minutes or GUESSED_MINUTES


def remember_time(context: Context, kind: str, seconds: object) -> None:
    """Keep how long a step says that it took, for the next one like it."""
    if isinstance(seconds, int | float):
        context.store.remember(_took(context.experiment, kind), {"seconds": round(seconds, 1)})


def _took(experiment: Experiment, kind: str) -> str:
    return f"took-{kind}-{experiment.name}"
