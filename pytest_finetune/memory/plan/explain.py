"""A memory plan in words.

The verdict with numbers, the breakdown, what to change, how to ask about another card.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.hardware.sizes import GiB, MiB, size_text

if TYPE_CHECKING:
    from pytest_finetune.memory.plan.plan import MemoryPlan
    from pytest_finetune.memory.plan.remedies import Remedies, Remedy

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "weights": ("frozen weights",),
    "adapter and optimizer": ("adapter", "gradients", "optimizer"),
    "activations": ("activations", "inputs"),
    "logits": ("logits and loss",),
    "temporaries": ("temporaries", "dequantised weights", "fragmentation"),
    "context": ("context", "workspaces"),
}


def grouped(plan: MemoryPlan) -> dict[str, int]:
    """Return the breakdown in the few words of a message, largest group first."""
    parts = plan.breakdown
    groups = {name: sum(parts.get(part, 0) for part in members) for name, members in GROUPS.items()}
    return dict(sorted(groups.items(), key=lambda item: -item[1]))


def tightest(plan: MemoryPlan) -> str:
    """Name the group that holds most of the peak: what a remedy has to shrink."""
    return next(iter(grouped(plan)))


def one_line(plan: MemoryPlan) -> str:
    """Return the plan in one line, for a report and a debugger."""
    return f"predicted peak {size_text(plan.peak_bytes)} ({_shape(plan)})"


def explain(plan: MemoryPlan, budget: Budget | int) -> list[str]:
    """Return the lines of the message; the first is the verdict."""
    judged = plan.on(budget.family) if isinstance(budget, Budget) else plan
    verdict = plan.verdict(budget)
    lines = [_headline(judged, budget, verdict), f"  {_parts(judged)}        (predicted; {_shape(judged)})"]
    if isinstance(budget, Budget) and (crowd := budget.crowded()):
        lines.append(f"  {crowd}")
    if verdict == "does not fit":
        lines += _changes(judged, plan.remedies(budget))
        lines.append(f"  {'; '.join((_place(judged), *judged.notes))}")
        headroom = budget.headroom if isinstance(budget, Budget) else 0.0
        lines.append(f"  to judge another card: --finetune-budget={_roomy(judged.needed_bytes, headroom)}GiB")
    return lines


def _roomy(needed: int, headroom: float) -> int:
    """Return the size of a card, in steps of 8 GiB, in which `needed` bytes fit with the headroom kept."""
    return math.ceil(needed / (1 - headroom) / (8 * GiB)) * 8


def _headline(plan: MemoryPlan, budget: Budget | int, verdict: str) -> str:
    if isinstance(budget, Budget):
        kept = f"{budget.name}, {budget.headroom:.0%} headroom kept"
        usable = budget.usable_bytes
    else:
        kept, usable = "given in bytes", int(budget)
    needs = plan.peak_bytes if verdict == "fits" else plan.needed_bytes
    words = {"fits": "adapter fits", "tight": "adapter fits tightly", "does not fit": "adapter does not fit"}
    return f"{words[verdict]}: needs {size_text(needs)}, the budget is {size_text(usable)} ({kept})"


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


def _shape(plan: MemoryPlan) -> str:
    return f"batch {plan.batch}, {plan.tokens} tokens"


def _changes(plan: MemoryPlan, remedies: Remedies) -> Iterator[str]:
    label = "one change that is enough:"
    for remedy in remedies.enough:
        yield f"  {label:<26}  {_remedy(remedy)}"
        label = ""
    if remedies.enough:
        return
    yield f"  no single change is enough; most of it is {tightest(plan)}"
    if remedies.pair is not None:
        label = "two that are enough:" if remedies.pair.enough else "the best two, not enough:"
        yield f"  {label:<26}  {_remedy(remedies.pair)}"


def _remedy(remedy: Remedy) -> str:
    note = f"   ({remedy.note})" if remedy.note else ""
    return f"{remedy.change} -> {size_text(remedy.needed_bytes)}{note}"


def as_json(plan: MemoryPlan, budget: Budget | int | None) -> dict[str, Any]:
    """Return the plan as the record keeps it; without a budget nothing is judged and no remedy is sought."""
    judged = plan.on(budget.family) if isinstance(budget, Budget) else plan
    verdict = plan.verdict(budget) if budget is not None else None
    remedies = plan.remedies(budget) if budget is not None and verdict == "does not fit" else None
    found = [*remedies.singles, *([remedies.pair] if remedies.pair else [])] if remedies else []
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
        "budget_bytes": budget.usable_bytes if isinstance(budget, Budget) else budget,
        "budget_name": budget.name if isinstance(budget, Budget) else None,
        "headroom": budget.headroom if isinstance(budget, Budget) else None,
        "crowded": budget.crowded() if isinstance(budget, Budget) else None,
        "fits": verdict,
        "remedies": [remedy.as_json() for remedy in found],
        "measured_peak_bytes": None,
        "disk": judged.disk.as_json() if judged.disk is not None else None,
        "notes": list(plan.notes),
    }
