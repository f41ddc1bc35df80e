"""Calls of tools: as a row brings them, as an answer makes them, and held to the schema of the tool. Nothing is run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from pytest_finetune.data.call_formats import ToolCall, calls_in, parameters_of
from pytest_finetune.yamlfile import Json


def read_calls(text: str, tools: Sequence[Json] = ()) -> tuple[ToolCall, ...]:
    """Return the calls that an answer makes, in its order; none when it makes no call.

    With `tools`, the JSON schemas that were offered, values without a type get that of the schema, and a call that
    breaks its tool's schema is malformed.

    >>> read_calls('<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>')
    (ToolCall(name='weather', arguments={'city': 'Rome'}, malformed=''),)
    """
    return tuple(_held_to_schema(call, tools) for call in calls_in(text, tools))


def call_text(calls: Sequence[Json]) -> str:
    """Return calls as one text that `read_calls` reads, in the form that most models use."""
    return "\n".join(
        f"<tool_call>\n{json.dumps({key: call['function'][key] for key in ('name', 'arguments')}, ensure_ascii=False)}"
        "\n</tool_call>"
        for call in calls
    )


def with_calls(content: str | None, calls: Sequence[Any]) -> str | None:
    r"""Return an answer as one text that `read_calls` reads, with the calls that were told apart from it.

    Arguments stay as they were given: what is no JSON there is malformed here too. Calls that the text holds as well
    are not written twice. A call begins a line, as the text may already do that was left before it.

    >>> with_calls("Let me see.\n", [{"name": "rain", "arguments": {}}])
    'Let me see.\n<tool_call>\n{"name": "rain", "arguments": {}}\n</tool_call>'
    """
    if not calls or (content and read_calls(content)):
        return content
    between = "\n" if content and not content.endswith("\n") else ""
    return (content or "") + between + "\n".join(map(_told_apart, calls))


def _told_apart(call: Any) -> str:
    """Write one call in the words of OpenAI (a function with its name) or inspect_ai (the name of a function)."""
    inner = call.get("function") if isinstance(call, dict) else None
    flat = inner if isinstance(inner, dict) else call
    if not isinstance(flat, dict):
        return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"
    name = json.dumps(inner if isinstance(inner, str) else flat.get("name"), ensure_ascii=False)
    arguments = flat.get("arguments") or "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    if call.get("parse_error"):  # what inspect_ai says of arguments that it could not read
        text = json.dumps(str(call["parse_error"]), ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {text}}}\n</tool_call>'


def schema_problem(name: str, arguments: Json, tools: Sequence[Json]) -> str | None:
    """Return how arguments break the schema of their tool; None when they keep it, or there is none."""
    schema = parameters_of(name, tools)
    if schema is None:
        return None
    problems = _errors_of(json.dumps(schema, sort_keys=True))(arguments)
    return problems[0] if problems else None


def schema_mistake(tool: Json) -> str | None:
    """Return what is wrong with the schema of a tool itself; None when it can be used."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    name, schema = tool["function"]["name"], tool["function"].get("parameters") or {}
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"the parameters of {name!r} are no JSON Schema: {error.message}"
    return None


@lru_cache(maxsize=64)
def _errors_of(schema: str) -> Callable[[Any], list[str]]:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    loaded = json.loads(schema)
    validator = Draft202012Validator(loaded, registry=Registry[Any]())

    def errors(value: Any) -> list[str]:
        try:
            return [error.message for error in validator.iter_errors(value)]
        except Unresolvable as error:
            return [f"the schema points to what is not there: {error}"]

    try:
        Draft202012Validator.check_schema(loaded)
    except SchemaError:
        return lambda _: []  # a finding of the row that brings the tool
    return errors


def _held_to_schema(call: ToolCall, tools: Sequence[Json]) -> ToolCall:
    if call.malformed or not tools:
        return call
    problem = schema_problem(call.name, call.arguments, tools)
    return (
        call if problem is None else replace(call, malformed=f"breaks the schema of {call.name!r}: {problem}")
    )
