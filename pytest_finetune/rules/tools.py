"""Rules about calls of tools: the right tool, and the right arguments. No call is ever made.

A failed answer is told apart: *not parsed* makes no call, *malformed* makes one that cannot be read or that the tool's
own schema refuses, *wrong* makes another than is expected. The record gets them as a confusion table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.rules.labels import _same as same
from pytest_finetune.rules.making import SHOWN, as_rule, broken, quoted

if TYPE_CHECKING:
    from pytest_finetune.answering.response import Response
    from pytest_finetune.data.call_formats import ToolCall
    from pytest_finetune.data.rows import Row

NO_CALL: Final = "no call"
MALFORMED: Final = "malformed"
OTHER_ARGUMENTS: Final = "other arguments"


def tool_called(**thresholds: object) -> Callable[..., None]:
    """Make a rule: the answer calls the tools that the expected answer calls, and none where that calls none.

    The order of calls in one answer does not matter; whether the arguments are right is asked by `tool_arguments`.
    """

    def tool_called(response: Response, example: Row, confusion: Any) -> None:
        wanted, made = wanted_calls(example), response.calls_of(example.tools)
        fault = unusable(wanted, made, response.text)
        confusion(named(wanted), label_of_calls(made, fault))
        if fault is not None:
            raise AssertionError(fault)
        if sorted(call.name for call in made) != sorted(call.name for call in wanted):
            raise AssertionError(f"wrong: calls {named(made)}, expected {named(wanted)}")

    return as_rule(tool_called, thresholds)


def tool_arguments(**thresholds: object) -> Callable[..., None]:
    """Make a rule: the answer makes the calls of the expected answer, with the same arguments by value, and no other.

    The order of calls in one answer does not matter.
    """

    def tool_arguments(response: Response, example: Row, confusion: Any) -> None:
        wanted, made = wanted_calls(example), response.calls_of(example.tools)
        fault = unusable(wanted, made, response.text)
        said = None if fault is not None else difference(wanted, made)
        alike = sorted(call.name for call in made) == sorted(call.name for call in wanted)
        confusion(named(wanted), OTHER_ARGUMENTS if said and alike else label_of_calls(made, fault))
        if fault is not None or said:
            raise AssertionError(fault if fault is not None else f"wrong: {said}")

    return as_rule(tool_arguments, thresholds)


def wanted_calls(example: Row) -> tuple[ToolCall, ...]:
    """Return the calls that a row expects; a row whose own cannot be read judges nothing."""
    wanted = example.tool_calls
    for call in wanted:
        if call.malformed:
            raise broken(f"the expected call of {example.place} is malformed: {call.malformed}")
    return wanted


def unusable(wanted: Sequence[ToolCall], made: Sequence[ToolCall], text: str) -> str | None:
    """Return why an answer makes no call that could be compared; None when it makes one, or need not."""
    bad = next((call for call in made if call.malformed), None)
    if bad is not None:
        return f"malformed: the call of {bad.name or 'a tool'}: {bad.malformed}"
    if wanted and not made:
        return f"not parsed: no call in {quoted(text)}, expected {named(wanted)}"
    return None


def difference(wanted: Sequence[ToolCall], made: Sequence[ToolCall]) -> str:
    """Return the first difference between the calls that are expected and those that are made; empty for none."""
    left = list(made)
    missing = []
    for call in wanted:
        match = next((one for one in left if _same_call(one, call)), None)
        if match is None:
            missing.append(call)
        else:
            left.remove(match)
    for call in missing:
        near = next((one for one in left if one.name == call.name), None)
        if near is None:
            return f"calls {named(made)}, expected {named(wanted)}"
        return _arguments_apart(near, call)
    return f"calls {named(made)}, expected {named(wanted)}" if left else ""


def _same_call(one: ToolCall, other: ToolCall) -> bool:
    return one.name == other.name and same(dict(one.arguments), dict(other.arguments))


def _arguments_apart(made: ToolCall, wanted: ToolCall) -> str:
    said = [f"lacks {key!r}" for key in wanted.arguments if key not in made.arguments]
    said += [f"has {quoted(key)}" for key in made.arguments if key not in wanted.arguments]
    said += [
        f"{key} is {_as_json(made.arguments[key])}, expected {_as_json(value)}"
        for key, value in wanted.arguments.items()
        if key in made.arguments and not same(made.arguments[key], value)
    ]
    return f"the call of {made.name}: {'; '.join(said)}"


def _as_json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def named(calls: Sequence[ToolCall]) -> str:
    """Return the names of called tools as one label."""
    return ", ".join(sorted(call.name for call in calls)) or NO_CALL


def label_of_calls(made: Sequence[ToolCall], fault: str | None) -> str:
    """Return what an answer did as a label of the confusion table."""
    return MALFORMED if fault is not None and made else named(made)
