"""The calls of tools in an answer, read by the marks that models put around a call, whichever model it was.

======================================  ==================================================================
Hermes, Qwen, SmolLM                    ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``
Qwen Coder                              ``<function=name><parameter=key>value</parameter></function>``
GLM                                     ``<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value>``
Llama                                   ``{"name": …, "parameters": {…}}``, alone or after ``<|python_tag|>``
Mistral                                 ``[TOOL_CALLS][{"name": …, "arguments": {…}}]`` or ``[TOOL_CALLS]name[ARGS]{…}``
gpt-oss                                 ``to=functions.name <|constrain|>json<|message|>{…}<|call|>``
DeepSeek                                ``<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>``
Kimi                                    ``<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}``
Granite, Phi, Command                   ``<|tool_call|>[…]``, ``<|START_ACTION|>[…]``
Gemma                                   ``<|tool_call>call:name{key:<|"|>value<|"|>}<tool_call|>``
MiniMax, Muse                           ``<invoke name="name"><parameter name="key">value</parameter></invoke>``
LFM, Llama                              ``[name(key="value")]``, alone or after ``<|tool_call_start|>``
======================================  ==================================================================

What an answer says is data: nothing of it is ever run.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_finetune.data.strict_json import StrictParser
from pytest_finetune.yamlfile import Json


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool; `malformed` says what is wrong with one that cannot be read or breaks the tool's schema."""

    name: str
    arguments: Json
    malformed: str = ""


def calls_in(text: str, tools: Sequence[Json]) -> list[ToolCall]:
    """Return the calls of an answer, by the first form whose mark stands in it."""
    return next((read(text, tools) for mark, read in _FORMATS if mark.search(text)), [])


def parameters_of(name: str, tools: Sequence[Json]) -> Json | None:
    """Return the schema of a tool's arguments; None when the tool is not among them or says nothing about them."""
    for tool in tools:
        if tool["function"]["name"] == name:
            found = tool["function"].get("parameters")
            return found if isinstance(found, Mapping) and found else None
    return None


# Calls that are JSON.

_NAME: Final = ("name", "tool_name", "function")
_ARGUMENTS: Final = ("arguments", "parameters", "args")


def _from_json(text: str, *, many: bool = True) -> list[ToolCall]:
    """Read one call, or a list of them, from the JSON value that `text` begins with."""
    text = text.lstrip()
    value = _value_at_start(text)
    if isinstance(value, str):
        return [ToolCall(_name_in(text), {}, value)]
    found = [_from_object(one) for one in (value if many and isinstance(value, list) else [value])]
    rest = text[_end_of_value(text) :].lstrip(" \n\t;")
    return found + (_from_json(rest) if rest.startswith('{"') else [])


def _value_at_start(text: str) -> object:
    """Return the object or list that a text begins with; a text that says what is wrong where there is none."""
    if not text.startswith(("{", "[")):
        return f"no JSON object: {text[:60]!r}"
    parsed = StrictParser().parse(text[: _end_of_value(text)])
    return f"not JSON: {parsed.faults[0].read}" if parsed.faults else parsed.value


def _end_of_value(text: str) -> int:
    """Return where the JSON value at the start of a text ends; the end of the text when it has none."""
    try:
        return json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        return len(text)


def _from_object(value: object) -> ToolCall:
    if not isinstance(value, dict):
        return ToolCall("", {}, f"a call is an object, found {json.dumps(value)[:60]}")
    inner = value.get("function")
    call: Json = inner if isinstance(inner, dict) else value
    name = next((call[key] for key in _NAME if isinstance(call.get(key), str)), "")
    return _called(name, next((call[key] for key in _ARGUMENTS if key in call), {}))


def _called(name: str, arguments: object) -> ToolCall:
    """Return a call; arguments may be an object or the JSON text of one."""
    if isinstance(arguments, str):
        arguments = _value_at_start(arguments.strip() or "{}")
    if not name:
        return ToolCall("", {}, "no name of a tool")
    if isinstance(arguments, str):
        return ToolCall(name, {}, arguments)
    if not isinstance(arguments, dict):
        return ToolCall(name, {}, f"arguments are no object: {json.dumps(arguments)[:60]}")
    return ToolCall(name, arguments)


def _name_in(text: str) -> str:
    """Return the name that broken JSON still shows."""
    found = re.search(r'"(?:name|tool_name)"\s*:\s*"([^"\\]+)"', text)
    return found[1] if found else ""


# A reader for each way to write a call.

_Reader = Callable[[str, Sequence[Json]], list[ToolCall]]


def _tagged(text: str, tools: Sequence[Json]) -> list[ToolCall]:
    """Read ``<tool_call>…</tool_call>``: JSON, Qwen Coder's tags, or GLM's keys and values."""
    return [call for block in _blocks(text, "<tool_call>", "</tool_call>") for call in _block(block, tools)]


def _block(block: str, tools: Sequence[Json]) -> list[ToolCall]:
    if "<function=" in block:
        return _functions(block, tools)
    if "<arg_key>" in block or re.fullmatch(r"\s*[\w.-]+\s*", block):
        name = block.partition("<arg_key>")[0].strip()
        pairs = re.findall(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", block, re.DOTALL)
        lost = block.count("<arg_key>") != len(pairs)
        return [ToolCall(name, _typed(name, pairs, tools), "an <arg_key> without its value" if lost else "")]
    return _from_json(block)


def _functions(text: str, tools: Sequence[Json]) -> list[ToolCall]:
    """Read ``<function=name>``, with ``<parameter=key>`` tags or one JSON object in it."""
    return [_function(block, tools) for block in _blocks(text, "<function=", "</function>")]


def _function(block: str, tools: Sequence[Json]) -> ToolCall:
    name, closed, body = block.partition(">")
    name = name.strip()
    if not closed:
        return ToolCall(name[:60], {}, "<function= is not closed")
    if body.lstrip().startswith("{"):
        return _called(name, body)
    pairs = re.findall(r"<parameter=([^>]+)>\n?(.*?)\n?</parameter>", body, re.DOTALL)
    lost = body.count("<parameter=") != len(pairs)
    return ToolCall(name, _typed(name, pairs, tools), "a <parameter= without its end" if lost else "")


def _typed(name: str, pairs: Sequence[tuple[str, str]], tools: Sequence[Json]) -> Json:
    """Give values that were written without quotes the type that the tool's schema names, else that of their JSON."""
    described = (parameters_of(name, tools) or {}).get("properties", {})
    return {key.strip(): _value(text, described.get(key.strip(), {})) for key, text in pairs}


def _value(text: str, described: object) -> object:
    if isinstance(described, Mapping) and described.get("type") == "string":
        return text
    parsed = StrictParser().parse(text)
    return text if parsed.faults else parsed.value


def _invoked(text: str, tools: Sequence[Json]) -> list[ToolCall]:
    """Read ``<invoke name="…">`` with its parameters, under any prefix."""
    found = []
    for match in re.finditer(
        r'<(?:\w+:)?invoke name="([^"]*)">(.*?)(?:</(?:\w+:)?invoke>|\Z)', text, re.DOTALL
    ):
        name, body = match[1], match[2]
        tag = r'<(?:\w+:)?parameter name="([^"]*)"[^>]*>(.*?)</(?:\w+:)?parameter>'
        pairs = re.findall(tag, body, re.DOTALL)
        lost = len(re.findall(r"<(?:\w+:)?parameter", body)) != len(pairs)
        found.append(
            ToolCall(name, _typed(name, pairs, tools), "a parameter without its end" if lost else "")
        )
    return found


def _gemma(text: str, tools: Sequence[Json]) -> list[ToolCall]:
    """Read ``call:name{key:value}``, whose texts stand between ``<|"|>``."""
    found = []
    for block in _blocks(text, "<|tool_call>call:", "<tool_call|>"):
        name, brace, body = block.partition("{")
        parts = (brace + body).split('<|"|>')
        keyed = [re.sub(r"([{,]\s*)([\w.-]+)\s*:", r'\1"\2":', part) for part in parts]
        written = [json.dumps(part) if at % 2 else keyed[at] for at, part in enumerate(parts)]
        found.append(_called(name.strip(), "".join(written)))
    return found


def _mistral(text: str, tools: Sequence[Json]) -> list[ToolCall]:
    found: list[ToolCall] = []
    for part in text.split("[TOOL_CALLS]")[1:]:
        named = re.match(r"\s*([\w.-]+)\s*(?:\[CALL_ID\][^\[{]*)?(?:\[ARGS\])?(?=\s*\{)", part)
        found += [_called(named[1], part[named.end() :])] if named else _from_json(part)
    return found


def _harmony(text: str, tools: Sequence[Json]) -> list[ToolCall]:
    found = []
    for match in re.finditer(r"to=functions\.([\w.-]+?)(?=commentary|[^\w.-]|\Z)", text):
        rest = text[match.end() :]
        body = rest[rest.find("{") :] if "{" in rest else rest.rpartition("<|message|>")[2]
        found.append(_called(match[1], body))
    return found


def _deepseek(text: str, tools: Sequence[Json]) -> list[ToolCall]:
    found = []
    for block in _blocks(text, "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"):
        first, _, rest = block.partition("<｜tool▁sep｜>")
        # The older form says "function" first, and fences the arguments as JSON.
        name, fence, fenced = rest.partition("```json")
        found.append(_called((name if fence else first).strip(), fenced if fence else rest))
    return found


def _kimi(text: str, tools: Sequence[Json]) -> list[ToolCall]:
    found = []
    for block in _blocks(text, "<|tool_call_begin|>", "<|tool_call_end|>"):
        name, _, rest = block.partition("<|tool_call_argument_begin|>")
        found.append(_called(re.sub(r"^functions\.|:\d+$", "", name.strip()), rest))
    return found


def _after_a_mark(text: str, tools: Sequence[Json]) -> list[ToolCall]:
    marks = re.compile("|".join(map(re.escape, _MARKS)))
    return [call for part in marks.split(text)[1:] for call in _from_json(part)]


def _pythonic(text: str, tools: Sequence[Json]) -> list[ToolCall]:
    """Read ``[name(key="value")]`` as the list of calls that it is; the values are literals."""
    text = text.rpartition("<|tool_call_start|>")[2].partition("<|tool_call_end|>")[0].strip()
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [ToolCall(text.lstrip("[").partition("(")[0][:60], {}, f"no list of calls: {text[:60]!r}")]
    return [_literal(call) for call in (body.elts if isinstance(body, ast.List) else [body])]


def _literal(call: ast.expr) -> ToolCall:
    if not isinstance(call, ast.Call):
        return ToolCall("", {}, f"no call: {ast.unparse(call)[:60]!r}")
    name = ast.unparse(call.func)
    try:
        arguments = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
        json.dumps(arguments)
    except (ValueError, TypeError, RecursionError):
        return ToolCall(name, {}, f"arguments that are no values: {ast.unparse(call)[:60]!r}")
    return ToolCall(name, arguments, "arguments without a name" if call.args else "")


def _bare(text: str, tools: Sequence[Json]) -> list[ToolCall]:
    return _from_json(text)


def _blocks(text: str, begin: str, end: str) -> Iterator[str]:
    """Yield what stands behind each `begin`, up to `end` or the next one: an answer may be cut."""
    for part in text.split(begin)[1:]:
        yield part.partition(end)[0]


_MARKS: Final = ("<|python_tag|>", "<|tool_call|>", "<|START_ACTION|>")

_FORMATS: Final[tuple[tuple[re.Pattern[str], _Reader], ...]] = (
    (re.compile("<tool_call>"), _tagged),
    (re.compile("<function="), _functions),
    (re.compile(r"\[TOOL_CALLS\]"), _mistral),
    (re.compile(r"to=functions\."), _harmony),
    (re.compile("<｜tool▁call▁begin｜>"), _deepseek),
    (re.compile(r"<\|tool_call>call:"), _gemma),
    (re.compile(r"<(?:\w+:)?invoke name="), _invoked),
    (re.compile(r"<\|tool_call_begin\|>"), _kimi),
    (re.compile("|".join(map(re.escape, _MARKS))), _after_a_mark),
    (re.compile(r"<\|tool_call_start\|>|\A\s*\[[A-Za-z_][\w.]*\(.*\)\]\s*\Z", re.DOTALL), _pythonic),
    # A whole answer that is a call, or a list of calls, and nothing else.
    (
        re.compile(
            r'\A\s*\[?\s*\{\s*"(?:type"\s*:\s*"function"|name"\s*:\s*"[^"]*"\s*,\s*"(?:parameters|arguments)"|'
            r'function"\s*:\s*[{"])'
        ),
        _bare,
    ),
)
