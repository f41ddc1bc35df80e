"""The written rubric (rubric.md) as a function: three answers in, one priority out."""

from __future__ import annotations

from typing import Final, Literal

Who = Literal["everyone", "group", "one"]
Harm = Literal["blocked", "degraded", "cosmetic"]

PRIORITIES: Final = ("critical", "high", "medium", "low")
_STEPS_DOWN: Final[dict[str, int]] = {"everyone": 0, "group": 1, "one": 2, "blocked": 0, "degraded": 1}


def priority(who: Who, harm: Harm, way_around: bool) -> str:
    """Count the steps down from critical; what is only cosmetic is low.

    >>> priority("everyone", "blocked", way_around=False), priority("group", "degraded", way_around=False)
    ('critical', 'medium')
    """
    if harm == "cosmetic":
        return "low"
    return PRIORITIES[min(_STEPS_DOWN[who] + _STEPS_DOWN[harm] + way_around, 3)]
