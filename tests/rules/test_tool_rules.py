"""The rules about tools: right, wrong, malformed and not parsed are four things."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pytest_finetune import rules
from pytest_finetune.answering.response import Response
from pytest_finetune.data.rows import Row
from pytest_finetune.data.tool_calls import call_text
from pytest_finetune.judging.rule import RuleBroken

TOOLS = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "required": ["city"],
                "properties": {"city": {"type": "string"}, "days": {}},
            },
        },
    }
    for name in ("weather", "time")
)


def calls(*made: tuple[str, dict[str, Any]]) -> str:
    return call_text([{"function": {"name": name, "arguments": arguments}} for name, arguments in made])


ROME = ("weather", {"city": "Rome", "days": 2})
ROW = Row("eval.jsonl", 3, 0, "messages", "", "weather?", calls(ROME), None, (), None, {}, "r", TOOLS)
BOTH = replace(ROW, output=calls(ROME, ("time", {"city": "Rome"})))
SILENT = replace(ROW, output="It is noon.")

RIGHT, WRONG, MALFORMED, NOT_PARSED = "", "wrong: ", "malformed: ", "not parsed: "


def judged(rule: Callable[..., None], row: Row, text: str) -> tuple[str, tuple[str, str]]:
    """Return what a rule says of an answer, and what it counts in the confusion table."""
    counted: list[tuple[str, str]] = []
    said = ""
    try:
        rule(response=Response(text), example=row, confusion=lambda *pair: counted.append(pair))
    except AssertionError as failure:
        said = str(failure)
    (pair,) = counted
    return said, pair


@pytest.mark.parametrize(
    ("row", "text", "called", "arguments", "given"),
    [
        (ROW, calls(ROME), RIGHT, RIGHT, "weather"),
        (ROW, '{"name": "weather", "parameters": {"days": 2.0, "city": "Rome"}}', RIGHT, RIGHT, "weather"),
        (ROW, calls(("weather", {"city": "Oslo", "days": 2})), RIGHT, WRONG + "the call of weather: city is \"Oslo\", expected \"Rome\"", "weather"),
        (ROW, calls(("weather", {"city": "Rome", "unit": "C"})), RIGHT, WRONG + "the call of weather: lacks 'days'; has 'unit'", "weather"),
        (ROW, calls(("time", {"city": "Rome"})), WRONG + "calls time, expected weather", WRONG + "calls time, expected weather", "time"),
        (ROW, calls(ROME, ROME), WRONG + "calls weather, weather", WRONG + "calls weather, weather", "weather, weather"),
        (ROW, calls(("weather", {"days": 2})), MALFORMED + "the call of weather: breaks the schema", MALFORMED, "malformed"),
        (ROW, '<tool_call>{"name": "weather", "arguments": {"city": Rome}}</tool_call>', MALFORMED + "the call of weather: not JSON", MALFORMED, "malformed"),
        (ROW, "It is sunny in Rome.", NOT_PARSED + "no call in 'It is sunny in Rome.', expected weather", NOT_PARSED, "no call"),
        (BOTH, calls(("time", {"city": "Rome"}), ROME), RIGHT, RIGHT, "time, weather"),
        (BOTH, calls(ROME), WRONG + "calls weather, expected time, weather", WRONG, "weather"),
        (SILENT, "Noon.", RIGHT, RIGHT, "no call"),
        (SILENT, calls(ROME), WRONG + "calls weather, expected no call", WRONG, "weather"),
    ],
)  # fmt: skip
def test_an_answer_is_right_wrong_malformed_or_not_parsed(
    row: Row, text: str, called: str, arguments: str, given: str
) -> None:
    expected = ", ".join(sorted(call.name for call in row.tool_calls)) or "no call"
    for rule, says in ((rules.tool_called(), called), (rules.tool_arguments(), arguments)):
        said, counted = judged(rule, row, text)
        assert (said == "") == (says == ""), said
        assert said.startswith(says), said
        other = rule.__name__ == "tool_arguments" and "the call of weather" in said and said.startswith(WRONG)
        assert counted == (expected, "other arguments" if other else given)


def test_a_row_whose_own_call_is_malformed_is_an_error_of_the_rows() -> None:
    with pytest.raises(
        RuleBroken, match=r"the expected call of eval.jsonl:3 is malformed: .*'city' is a required"
    ):
        judged(rules.tool_called(), replace(ROW, output=calls(("weather", {}))), "")


def test_a_value_of_another_type_is_another_value() -> None:
    row = replace(ROW, output=calls(("weather", {"city": "Rome", "days": "2"})))
    assert (
        judged(rules.tool_arguments(), row, calls(ROME))[0]
        == 'wrong: the call of weather: days is 2, expected "2"'
    )
