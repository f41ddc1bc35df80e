"""A rule that fails every answer in one and the same way is broken itself, and judges nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_finetune.suite.markers import RuleMark
    from pytest_finetune.suite.rules.rule_items import ArmScores


class RuleBroken(Exception):
    """The rule itself is broken, so it judges nothing."""


def refuse_broken(rule: RuleMark, found: Mapping[str, ArmScores]) -> None:
    """Raise when every row of every arm ended in one and the same exception: that is the rule, not the answers."""
    causes = [cause for arm in found.values() for cause in arm.causes]
    first = causes[0] if causes else None
    if first is None or isinstance(first, (AssertionError, json.JSONDecodeError)) or _about_the_answer(first):
        return
    if all(type(cause) is type(first) and str(cause) == str(first) for cause in causes):
        where = _where(first)
        raise RuleBroken(
            f"{type(first).__name__}: {first} on all {len(causes)} answers of every arm{where}; "
            "an error that no answer escapes is the rule's own"
        ) from first


def _about_the_answer(error: Exception) -> bool:
    return type(error).__name__ == "NotJson" or type(error).__module__.startswith("jsonschema")


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" (line {trace.tb_lineno} of {trace.tb_frame.f_code.co_name})" if trace is not None else ""
