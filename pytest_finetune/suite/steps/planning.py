"""The plan of a run and the budgets it is held against; nothing here imports torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.memory.hardware.detect import detect, disk_free_bytes, expandable_segments, parse_budget
from pytest_finetune.memory.hardware.disk import DiskBudget
from pytest_finetune.memory.measure import Fit
from pytest_finetune.memory.plan.explain import as_json, explain
from pytest_finetune.memory.plan.plan import plan_memory
from pytest_finetune.memory.plan.planner import Planner

if TYPE_CHECKING:
    from pytest_finetune.memory.hardware.detect import Budget
    from pytest_finetune.memory.plan.plan import MemoryPlan
    from pytest_finetune.store import Store
    from pytest_finetune.suite.run import ExperimentRun


def plan_of(run: ExperimentRun) -> MemoryPlan:
    """Plan the step of the registered trainer on the longest training row, and put the plan down."""
    counted = run.contract.tokenization.table(run.train_rows) if run.contract.tokenization else {}
    step, notes = step_of(run)
    budget = run.budget if run.budget.comparable else None
    planner = Planner(run.session.store)
    plan = plan_memory(
        run.experiment,
        counted.get("max") or None,
        planner,
        families=(budget.family,) if budget else (),
        step=step,
        notes=notes,
        expandable_segments=expandable_segments(),
    )
    run.note(("memory",), as_json(plan, budget, planner))
    return plan


def plan_lines(plan: MemoryPlan, budget: Budget | int, store: Store) -> list[str]:
    """Explain a plan that a test asserted to stay within a budget; the remedies are planned with this store."""
    return explain(plan, budget, Planner(store))


def step_of(run: ExperimentRun) -> tuple[str, tuple[str, ...]]:
    """Return the training step to trace, and a note when the trainer that comes first has not named its own."""
    hooks = run.session.config.hook
    step: str = hooks.pytest_finetune_memory_step(experiment=run.experiment)
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


def budget_of(run: ExperimentRun) -> Budget:
    """Return the card that is here, or the one that ``--finetune-budget`` names, with the disk of the store."""
    session = run.session
    if session.settings.budget:
        named = parse_budget(session.settings.budget, headroom=session.headroom)
        return replace(named, disk_free_bytes=disk_free_bytes(session.store.root))
    device = session.device if session.settings.finetune else session.chosen.known  # a look waits for no GPU
    return detect(device, session.store.root, headroom=session.headroom)


def disk_of(run: ExperimentRun) -> DiskBudget:
    """Return what is free on the disk where the store lies."""
    root = run.session.store.root
    return DiskBudget(str(root), disk_free_bytes(root))


def fit_of(run: ExperimentRun) -> Fit | None:
    """Return plan and budget for the training to be measured against.

    On a card always, even where no test asked for the plan; elsewhere only when one did, since nothing is measured
    there. A model that cannot be planned is measured all the same.
    """
    if not run.budget.comparable and not run.made("memory plan"):
        return None
    planner = Planner(run.session.store)
    try:
        return Fit(run.budget, run.memory_plan, planner)
    except pytest.fail.Exception:
        return Fit(run.budget, None, planner)
