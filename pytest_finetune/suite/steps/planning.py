"""What is known before a training: its plan, the budgets that it is held against, and what the rows can show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.plan import Plan
from pytest_finetune.memory.hardware import nvidia
from pytest_finetune.memory.hardware.context import measure_elsewhere, with_context
from pytest_finetune.memory.hardware.detect import detect, disk_free_bytes, expandable_segments, parse_budget
from pytest_finetune.memory.hardware.disk import DiskBudget
from pytest_finetune.memory.measure import Fit
from pytest_finetune.memory.plan.explain import as_json, explain, unplanned_json
from pytest_finetune.memory.plan.figures import NotPlannedError
from pytest_finetune.memory.plan.plan import plan_memory
from pytest_finetune.memory.plan.planner import Planner
from pytest_finetune.suite.steps.unplanned import Unplanned

if TYPE_CHECKING:
    from pluggy import HookRelay

    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.experiment.records import DecisionDefaults
    from pytest_finetune.memory.hardware.detect import Budget
    from pytest_finetune.memory.plan.plan import MemoryPlan
    from pytest_finetune.store import LookBook, Store
    from pytest_finetune.suite.context import Context
    from pytest_finetune.suite.steps.replaying import Replaying


def memory_plan(
    context: Context,
    longest: int | None,
    budget: Budget,
    measured: Callable[[], Mapping[str, int]],
) -> MemoryPlan | Unplanned:
    """Plan the step of the registered trainer on the longest training row, or replayed one, and record the plan.

    Where the step cannot be traced the reason is recorded, and what `measured` trains and measures stands in for it.
    """
    seen = budget if budget.comparable else None
    planner = Planner(context.store)
    try:
        plan = planned(context, longest, budget, planner)
    except NotPlannedError as error:
        context.record(("memory",), unplanned_json(str(error), seen))
        return Unplanned(str(error), measured, _unmeasured_because(context, budget))
    context.record(("memory",), as_json(plan, seen, planner))
    return plan


def longest_tokens(contract: Contract, train_rows: Rows) -> int | None:
    """Return the length of the longest training row, None where tokens cannot be counted."""
    counted = contract.tokenization.table(train_rows) if contract.tokenization else {}
    return counted.get("max") or None


def longest_taught(contract: Contract, train_rows: Rows, replaying: Replaying | None) -> int | None:
    """Return what the longest row that is taught can need, replayed ones too; None where tokens cannot be counted."""
    replayed = replaying.longest_tokens if replaying else 0
    return max(longest_tokens(contract, train_rows) or 0, replayed) or None


def planned(context: Context, longest: int | None, budget: Budget, planner: Planner) -> MemoryPlan:
    """Plan the step of the registered trainer on a row of that length; NotPlannedError where it cannot be traced."""
    step, notes = step_of(context.hooks, context.experiment)
    return plan_memory(
        context.experiment,
        longest,
        planner,
        families=(budget.family,) if budget.comparable else (),
        step=step,
        notes=notes,
        expandable_segments=expandable_segments(),
        cards=len(nvidia.visible()) if budget.source == "measured" and budget.device == "cuda" else 1,
    )


def _unmeasured_because(context: Context, budget: Budget) -> str | None:
    """Return why the longest batch cannot be measured in this session; None where it can."""
    if not budget.comparable:
        return budget.incomparable_because
    if not context.settings.finetune:
        return "with --finetune the longest batch is measured on the card that is here"
    if not context.device.startswith("cuda"):
        return f"and {context.device!r} does not count the memory of a batch: run it where the card is"
    return None


def plan_lines(plan: MemoryPlan, budget: Budget | int, store: Store) -> list[str]:
    """Explain a plan that a test asserted to stay within a budget; the remedies are planned with this store."""
    return explain(plan, budget, Planner(store))


def step_of(hooks: HookRelay, experiment: Experiment) -> tuple[str, tuple[str, ...]]:
    """Return the training step to trace, and a note when the trainer that comes first has not named its own."""
    step: str = hooks.pytest_finetune_memory_step(experiment=experiment)
    trainer = hooks.pytest_finetune_train.get_hookimpls()[-1]  # the last one is called first
    named = any(one.plugin is trainer.plugin for one in hooks.pytest_finetune_memory_step.get_hookimpls())
    if named:
        return step, ()
    name = _plugin_name(trainer)
    return step, (
        f"planned for TRL's step: the trainer of {name} does not name its own (hook pytest_finetune_memory_step)",
    )


def _plugin_name(implementation: Any) -> str:
    """Name a plugin as its author knows it: a conftest by its file's name, another by the name it registered."""
    module = getattr(implementation.plugin, "__name__", "")
    return "conftest.py" if module.endswith("conftest") else str(implementation.plugin_name)


def budget_of(context: Context) -> Budget:
    """Return the card that is here, that of the jobs, or the one that ``--finetune-budget`` names.

    With the disk of the store.
    """
    settings, root = context.settings, context.store.root
    if settings.budget:
        named = parse_budget(settings.budget, headroom=context.headroom)
        return replace(named, disk_free_bytes=disk_free_bytes(root))
    if context.jobs is not None and context.jobs.budget is not None:
        return replace(context.jobs.budget, disk_free_bytes=disk_free_bytes(root))
    device = context.device if settings.finetune else context.chosen.known  # a look waits for no GPU
    budget = detect(device, root, headroom=context.headroom)
    if not settings.finetune:  # a look wakes no card up
        return budget
    return with_context(budget, int(device.partition(":")[2] or 0), context.store, measure_elsewhere)


def disk_of(store: Store) -> DiskBudget:
    """Return what is free on the disk where the store lies."""
    return DiskBudget(str(store.root), disk_free_bytes(store.root))


def fit_of(
    store: Store, budget: Budget, plan: Callable[[], MemoryPlan | Unplanned], *, planned: bool
) -> Fit | None:
    """Return plan and budget for the training to be measured against.

    On a card always, even where no test asked for the plan; elsewhere only when one did, since nothing is measured
    there. A model that cannot be planned is measured all the same.
    """
    if not budget.comparable and not planned:
        return None
    planner = Planner(store)
    try:
        made = plan()
        return Fit(budget, None if isinstance(made, Unplanned) else made, planner)
    except pytest.fail.Exception:
        return Fit(budget, None, planner)


def power_facts(
    decision: DecisionDefaults, rows: Rows, looks: LookBook, rules: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Return the record's `power`, for the primary rule's own `min_gain`; None without held-out rows."""
    if not len(rows):
        return None
    name, rule = next(((name, rule) for name, rule in rules.items() if rule["primary"]), (None, {}))
    asked = decision.min_gain if rule.get("min_gain") is None else rule["min_gain"]
    questions = frozenset(row.question_digest for row in rows)
    look = looks.next(frozenset(row.digest for row in rows), questions, grow=decision.grow)
    levels = Levels(rule.get("confidence") or decision.confidence, look, decision.spend, decision.grow)
    plan = Plan(len(rows), asked, levels, decision.power)
    return {
        "rows": len(rows),
        "look": look,
        "alpha": levels.claim,
        "rule": name,
        "min_gain": asked,
        "smallest_gain": plan.smallest,
        "opens": plan.opens,
        "line": plan.line,
        "warning": plan.warning,
    }
