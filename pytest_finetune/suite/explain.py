"""Explanations of failed assertions about our objects: short where pytest cuts, whole in a report section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

# pytest shows 8 lines of an explanation without -vv, and cuts long ones.
MAX_LINES: Final = 6
MAX_CHARS: Final = 600


def compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain ``findings == []`` and ``memory_plan <= budget``; None for anything else."""
    explain = _explainer(op, left, right)
    return None if explain is None else list(explain)


def _explainer(op: str, left: object, right: object) -> Sequence[str] | None:
    kind = type(left).__name__
    home = type(left).__module__
    if op == "==" and kind == "Findings" and home.startswith("pytest_finetune.") and right == []:
        return left.explain()  # type: ignore[attr-defined,no-any-return]
    if op == "<=" and kind == "MemoryPlan" and home.startswith("pytest_finetune."):
        return left.explain(right)  # type: ignore[attr-defined,no-any-return]
    return None


def shortened(lines: Sequence[str], where: str) -> list[str]:
    """Cut an explanation to what pytest shows whole, and say where the rest is."""
    kept: list[str] = []
    used = 0
    for line in lines:
        if len(kept) == MAX_LINES - 1 and len(lines) > MAX_LINES or used + len(line) > MAX_CHARS:
            kept.append(f"... all {len(lines)} lines: section {where!r} below")
            break
        kept.append(line)
        used += len(line) + 1
    return kept


def section(item: pytest.Item | None, title: str, lines: Sequence[str]) -> None:
    """Attach the full text to the running item's report."""
    if item is not None:
        item.add_report_section("call", title, "\n".join(lines))
