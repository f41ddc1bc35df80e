"""A memory plan in words: the verdict with numbers, the breakdown, what to change, how to ask about another card."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

from pytest_finetune.experiment.launcher import SHARDED_OPTIMIZERS
from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.hardware.sizes import GiB, MiB
from pytest_finetune.memory.plan.plan import DOES_NOT_FIT, MemoryPlan
from pytest_finetune.memory.plan.planner import Planner
from pytest_finetune.memory.plan.remedies import Remedies, Remedy, find_remedies
from pytest_finetune.memory.plan.workload import Workload
from pytest_finetune.wording import size
from pytest_finetune.yamlfile import Json

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "weights": ("frozen weights",),
    "gathered": ("gathered",),
    "adapter and optimizer": ("adapter", "gradients", "optimizer"),
    "activations": ("activations", "inputs"),
    "logits": ("logits and loss",),
    "temporaries": ("temporaries", "dequantised weights", "fragmentation"),
    "context": ("context", "workspaces"),
}

_SHARED_OUT: Final = ("frozen weights", "adapter", "gradients", "optimizer")


def grouped(plan: MemoryPlan) -> dict[str, int]:
    """Return the breakdown in the few words of a message, largest group first."""
    parts = plan.breakdown
    groups = {name: sum(parts.get(part, 0) for part in members) for name, members in GROUPS.items()}
    return dict(sorted(groups.items(), key=lambda item: -item[1]))


def tightest(plan: MemoryPlan) -> str:
    """Name the group that holds most of the peak: what a remedy has to shrink."""
    return next(iter(grouped(plan)))


def explain(plan: MemoryPlan, budget: Budget | int, planner: Planner) -> list[str]:
    """Return the lines of the message: the verdict, the breakdown, and what to change when it does not fit."""
    verdict = plan.verdict(budget)
    judged, usable = plan.within(budget)
    shape = f"batch {judged.batch}, {judged.tokens} tokens"
    lines = [_headline(judged, budget, usable, verdict), f"  {_parts(judged)}        (predicted; {shape})"]
    if isinstance(budget, Budget) and (crowd := budget.crowded()):
        lines.append(f"  {crowd}")
    if verdict == DOES_NOT_FIT:
        remedies = find_remedies(plan, budget, planner)
        lines += _changes(judged, remedies)
        if judged.processes > 1 and not any(remedy.enough for remedy in remedies.over):
            lines.append(f"  {on_more_cards(judged)}")
        lines.append(f"  {'; '.join((_place(judged), *judged.notes))}")
        headroom = budget.headroom if isinstance(budget, Budget) else 0.0
        lines.append(
            f"  to judge another card: --finetune-budget={roomy_gib(judged.needed_bytes, headroom)}GiB"
        )
    return lines


def on_more_cards(plan: MemoryPlan) -> str:
    """Say what several cards change: nothing with a model on each, and how much where they share one out.

    What is live beside weights, gradients and optimizer states at the peak is on each card however many there are.
    """
    if plan.workload.ranks > 1:
        return f"that is the share of one of {plan.workload.ranks} cards already"
    divided = sum(plan.figures.parts.get(part, 0) for part in _SHARED_OUT)
    stays = max(0, plan.allocated_bytes - divided)
    return (
        "training.launcher makes it no smaller: each process holds the whole model; with training.shard: true they "
        f"share it out, which divides {size(divided)} by the number of cards and leaves {size(stays)} on each"
        + _unless(plan.workload)
    )


def _unless(workload: Workload) -> str:
    if workload.quantization != "none":
        return f", but not for a base in {workload.quantization}"
    if workload.optimizer not in SHARDED_OPTIMIZERS:
        return f", but not with optim {workload.optimizer}"
    return ", and takes what a layer needs whole"


def roomy_gib(needed: int, headroom: float) -> int:
    """Return the size of a card, in steps of 8 GiB, in which `needed` bytes fit with the headroom kept."""
    return math.ceil(needed / (1 - headroom) / (8 * GiB)) * 8


def _headline(plan: MemoryPlan, budget: Budget | int, usable: int, verdict: str) -> str:
    kept = "given in bytes"
    if isinstance(budget, Budget):
        kept = f"{budget.name}, {budget.headroom:.0%} headroom kept"
    needs = plan.peak_bytes if verdict == "fits" else plan.needed_bytes
    words = {"fits": "adapter fits", "tight": "adapter fits tightly", "does not fit": "adapter does not fit"}
    return f"{words[verdict]}: needs {size(needs)}, the budget is {size(usable)} ({kept})"


def _parts(plan: MemoryPlan) -> str:
    """Write the groups in the unit of the headline, leaving out what would read 0."""
    if plan.peak_bytes >= GiB:
        written = {name: f"{size / GiB:.1f}" for name, size in grouped(plan).items()}
        return " | ".join(f"{name} {text}" for name, text in written.items() if text != "0.0")
    return " | ".join(f"{name} {size / MiB:.0f}" for name, size in grouped(plan).items() if size >= MiB)


def _place(plan: MemoryPlan) -> str:
    """Say when in the step the peak is reached."""
    at = f", layer {plan.layer}" if plan.layer is not None else ""
    return f"the peak is in the {plan.phase}{at}"


def _changes(plan: MemoryPlan, remedies: Remedies) -> Iterator[str]:
    if not any(remedy.enough for remedy in remedies.singles):
        yield f"  no single change that keeps rows and model is enough; most of it is {tightest(plan)}"
    label = ""
    for remedy in remedies.enough or remedies.joined:
        if (heading := _heading(remedy)) != label:
            label = heading
            yield f"  {label:<26}  {_remedy(remedy)}"
        else:
            yield f"  {'':<26}  {_remedy(remedy)}"


def _heading(remedy: Remedy) -> str:
    if remedy.cards > 1:
        return "or, over several cards:"
    if remedy.pair:
        return "together enough:" if remedy.enough else "the best, not enough:"
    return "or, at a cost:" if remedy.cuts else "one change that is enough:"


def _remedy(remedy: Remedy) -> str:
    note = f"   ({remedy.note})" if remedy.note else ""
    return f"{remedy.change} -> {size(remedy.needed_bytes)}{note}"


def unplanned_json(because: str, budget: Budget | None) -> Json:
    """Return what the record keeps of a plan that could not be made: why, and the budget."""
    return {
        "not_planned": because,
        "predicted_peak_bytes": None,
        "breakdown": {},
        **_budget(budget),
        "fits": None,
        "remedies": [],
        "measured_peak_bytes": None,
        "notes": [],
    }


def _budget(budget: Budget | None) -> Json:
    return {
        "budget_bytes": budget.usable_bytes if budget else None,
        "budget_name": budget.name if budget else None,
        "budget_source": budget.source if budget else None,
        "headroom": budget.headroom if budget else None,
        "crowded": budget.crowded() if budget else None,
    }


def as_json(plan: MemoryPlan, budget: Budget | None, planner: Planner) -> Json:
    """Return the plan as the record keeps it; without a budget nothing is judged and no remedy is sought."""
    judged = plan.on(budget.family) if budget else plan
    verdict = plan.verdict(budget) if budget else None
    remedies = find_remedies(plan, budget, planner).all if budget and verdict == DOES_NOT_FIT else ()
    return {
        "predicted_peak_bytes": judged.peak_bytes,
        "needed_bytes": judged.needed_bytes,
        "allocated_bytes": judged.allocated_bytes,
        "reserved_bytes": judged.reserved_bytes,
        "breakdown": dict(judged.breakdown),
        "phase": judged.phase,
        "layer": judged.layer,
        "tokens": judged.tokens,
        "batch": judged.batch,
        "tightest": tightest(judged),
        **_budget(budget),
        "fits": verdict,
        "remedies": [remedy.as_json() for remedy in remedies],
        "measured_peak_bytes": None,
        "disk": judged.disk.as_json() if judged.disk is not None else None,
        "notes": list(plan.notes),
    }
