"""Explanations of failed assertions about our objects: short where pytest cuts, whole in a report section."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import pytest

    from pytest_finetune.memory.hardware.budget import Budget
    from pytest_finetune.memory.plan.plan import MemoryPlan

    PlanLines = Callable[[MemoryPlan, Budget | int], list[str]]

# pytest shows 8 lines of an explanation without -vv, and cuts long ones.
MAX_LINES: Final = 6
MAX_CHARS: Final = 600


class Explanation(NamedTuple):
    """A failed assertion in a few lines, and the whole of it."""

    title: str
    brief: Sequence[str]
    whole: Sequence[str]


def compare(op: str, left: object, right: object, plan_lines: PlanLines) -> Explanation | None:
    """Explain ``findings == []``, ``memory_plan <= gpu_budget``, the same of its disk, and ``drift.mean_kl <= 0.5``.

    None for anything else. What is explained is known by its name, so that a failed assertion elsewhere imports
    nothing of ours.
    """
    kind = f"{type(left).__module__}.{type(left).__name__}"
    found: Any = left
    against: Any = right
    if op == "==" and kind == "pytest_finetune.data.findings.Findings" and right == []:
        return Explanation("data findings", found.brief(MAX_LINES, MAX_CHARS), found.explain())
    if op == "<=" and kind == "pytest_finetune.memory.plan.plan.MemoryPlan":
        lines = plan_lines(found, against)
        return Explanation("memory plan", shortened(lines, "memory plan"), lines)
    if op == "<=" and kind == "pytest_finetune.memory.hardware.disk.DiskPlan":
        lines = found.explain(right)
        return Explanation("disk plan", shortened(lines, "disk plan"), lines)
    if op in {"<=", "<"} and kind == "pytest_finetune.judging.drift.Figure":
        lines = found.explain(op, right)
        return Explanation("drift", shortened(lines, "drift"), lines)
    return None


def shortened(lines: Sequence[str], where: str) -> list[str]:
    """Cut an explanation to what pytest shows whole, and say where the rest is."""
    kept: list[str] = []
    used = 0
    for line in lines:
        if (len(kept) == MAX_LINES - 1 and len(lines) > MAX_LINES) or used + len(line) > MAX_CHARS:
            kept.append(f"... all {len(lines)} lines: section {where!r} below")
            break
        kept.append(line)
        used += len(line) + 1
    return kept


def section(item: pytest.Item | None, title: str, lines: Sequence[str]) -> None:
    """Attach the full text to the running item's report."""
    if item is not None:
        item.add_report_section("call", title, "\n".join(lines))
