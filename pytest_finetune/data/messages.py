"""The messages of a conversation and the tools of a row, read into one spelling; what has no meaning is named.

A message keeps its keys. Texts in parts are joined, calls of tools are written as OpenAI's servers write them with
their arguments as an object, and each call has an id, so that every chat template finds what it looks for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pytest_finetune.data.strict_json import StrictParser
from pytest_finetune.data.tool_calls import call_text
from pytest_finetune.errors import FinetuneError
from pytest_finetune.wording import nearest
from pytest_finetune.yamlfile import Json

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
BEFORE: Final = ("system", "developer")
"""The roles that say how to answer; the others talk."""

_OTHER_NAMES: Final = {
    **dict.fromkeys(("ai", "bot", "chatbot", "gpt", "model"), "assistant"),
    **dict.fromkeys(("customer", "human", "prompter"), "user"),
    **dict.fromkeys(("function", "observation"), "tool"),
}
"""What other files call the roles, in small letters."""

HANDED_ON: Final = (
    "role", "content", "name", "reasoning_content", "reasoning", "thinking", "tool_calls", "tool_call_id",
)  # fmt: skip
"""The keys of a message that the chat template is given; `weight` is for the training."""

ONLY_TEXT: Final = (
    "Leave pictures and sounds out where the text is enough; a model that looks is trained elsewhere."
)

KNOWN: Final = frozenset({*HANDED_ON, "weight", "function_call"})

_PLAIN: Final = {"role", "content"}
_TEXTS: Final = ("name", "reasoning_content", "reasoning", "thinking", "tool_call_id")


class ShapeError(FinetuneError, ValueError):
    """The row has no shape that we read; the message says what was found, `fix` what to do where that is special."""

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.fix = fix


def messages_of(row: Json, key: str) -> tuple[Json, ...]:
    """Return the messages that stand under a key; ShapeError says what is missing or has the wrong type."""
    messages = row[key]
    if not isinstance(messages, list) or not messages:
        raise ShapeError(f"{key} must be a list with at least one message")
    read = [_message(message, f"{key}: message {number}") for number, message in enumerate(messages, start=1)]
    return tuple(_with_ids(read)) if any(message.get("tool_calls") for message in read) else tuple(read)


def tools_of(row: Json) -> tuple[Json, ...]:
    """Return the tools of a row, each as ``{"type": "function", "function": {…}}``; ShapeError for anything else."""
    tools = row.get("tools")
    if isinstance(tools, str):
        tools = StrictParser().parse(tools).value
    if tools is None and not isinstance(row.get("tools"), str):
        return ()
    if not isinstance(tools, list):
        raise ShapeError(f"tools must be a list of JSON schemas, found {kind(row['tools'])}")
    return tuple(_tool(tool, f"tools: tool {number}") for number, tool in enumerate(tools, start=1))


def text_of(message: Json) -> str:
    """Return what a message says: its text, then its calls."""
    calls = message.get("tool_calls")
    return (
        "\n".join(filter(None, (message["content"], call_text(calls)))) if calls else str(message["content"])
    )


def transcript(messages: Sequence[Json]) -> str:
    """Return the question of a conversation as text: a single message alone, else lines with the role."""
    asked = [message for message in messages if message["role"] not in BEFORE]
    if len(asked) == 1:
        return text_of(asked[0])
    return "\n".join(f"{str(message['role']).capitalize()}: {text_of(message)}" for message in asked)


def further_texts(messages: Sequence[Json]) -> Iterator[str]:
    """Yield what a chat template is given of messages besides what they say: names and thoughts."""
    for message in messages:
        yield from (message[key] for key in _TEXTS if message.get(key))


def not_understood(messages: Sequence[Json]) -> Iterator[str]:
    """Yield the keys of messages that nothing here and no chat template is given, a sentence for each key."""
    first: dict[str, tuple[int, str]] = {}
    for number, message in enumerate(messages, start=1):
        for key in message.keys() - KNOWN:
            first.setdefault(key, (number, str(message["role"])))
    for key, (number, role) in sorted(first.items()):
        near = nearest(key, sorted(KNOWN), cutoff=0.75)
        meant = f"; did you mean {near!r}?" if near else ""
        yield f"the key {key!r} of message {number} ({role}) is given to nobody{meant}"


def answers_nothing(messages: Sequence[Json]) -> Iterator[str]:
    """Yield the tool messages that answer no call before them, a sentence for each."""
    waiting: list[str] = []
    for number, message in enumerate(messages, start=1):
        waiting += [str(call["id"]) for call in message.get("tool_calls") or ()]
        if message["role"] != "tool":
            continue
        if message.get("tool_call_id") in waiting:
            waiting.remove(message["tool_call_id"])
        else:
            named = f" with tool_call_id {message['tool_call_id']!r}" if "tool_call_id" in message else ""
            yield f"message {number} (tool){named} answers no call before it"


def kind(value: object) -> str:
    """Return the type of a JSON value in words."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


def _message(message: object, place: str) -> Json:
    if not isinstance(message, dict):
        raise ShapeError(f"{place} is {kind(message)}, not an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        meant = _OTHER_NAMES.get(str(role).lower(), str(role).lower())
        fix = f"Write the role as {json.dumps(meant)}." if meant in ROLES else None
        raise ShapeError(f"{place} has the role {role!r}; known: {', '.join(ROLES)}", fix)
    content = message.get("content")
    if isinstance(content, str) and message.keys() == _PLAIN:
        return message
    for key in _TEXTS:
        if message.get(key) is not None and not isinstance(message[key], str):
            raise ShapeError(f"{place}: {key} must be a text, found {kind(message[key])}")
    weight = message.get("weight", 1)
    if weight not in (0, 1) or isinstance(weight, bool):
        raise ShapeError(f"{place} has the weight {weight!r}: 0 (not taught) or 1")
    calls = _calls(message, place)
    changed = {**message, "content": _content(content, place, silent=bool(calls))}
    return {**changed, "tool_calls": calls} if calls else changed


def _content(content: object, place: str, *, silent: bool) -> str:
    if isinstance(content, str):
        return content
    if content is None and silent:
        return ""
    if isinstance(content, list) and any(isinstance(part, dict) for part in content):
        return "".join(_part(part, place) for part in content)
    key, _, message = place.partition(": ")
    raise ShapeError(f"{key}: the content of {message} must be a text, found {kind(content)}")


def _part(part: object, place: str) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") == "text":
        return str(part["text"])
    found = f"a part of type {part.get('type')!r}" if isinstance(part, dict) else f"{kind(part)} for a part"
    raise ShapeError(f"{place} has {found}: only parts of type 'text' can be taught and asked", ONLY_TEXT)


def _calls(message: Json, place: str) -> list[Json]:
    calls = message.get("tool_calls") or _older(message.get("function_call"), place)
    if not calls:
        return []
    if message["role"] != "assistant":
        raise ShapeError(f"{place}: only the assistant calls tools, not the {message['role']}")
    if not isinstance(calls, list):
        raise ShapeError(f"{place}: tool_calls must be a list, found {kind(calls)}")
    return [_call(call, f"{place}: call {number}") for number, call in enumerate(calls, start=1)]


def _older(call: object, place: str) -> object:
    """Return what older files write as one `function_call`, an object or the JSON text of one or of several."""
    if isinstance(call, str):
        parsed = StrictParser().parse(call)
        if parsed.faults:
            raise ShapeError(f"{place}: function_call is no JSON: {parsed.faults[0].read}")
        call = parsed.value
    return [call] if isinstance(call, dict) else call


def _call(call: object, place: str) -> Json:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise ShapeError(f"{place} is {kind(call)}, not an object with name and arguments")
    name, arguments = function.get("name"), function.get("arguments", {})
    if not isinstance(name, str) or not name:
        raise ShapeError(f"{place} has no name")
    if isinstance(arguments, str):
        parsed = StrictParser().parse(arguments or "{}")
        if parsed.faults:
            raise ShapeError(f"{place}: the arguments of {name!r} are no JSON: {parsed.faults[0].read}")
        arguments = parsed.value
    if not isinstance(arguments, dict):
        raise ShapeError(f"{place}: the arguments of {name!r} must be an object, found {kind(arguments)}")
    given = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**given, "type": "function", "function": {"name": name, "arguments": arguments}}


def _with_ids(messages: Sequence[Json]) -> Iterator[Json]:
    """Give each call an id and each tool message that of the call that it answers, where they have none.

    Nine letters and digits: the templates of Mistral accept no other length.
    """
    number, waiting = 0, list[str]()
    for message in messages:
        if calls := message.get("tool_calls"):
            named = []
            for call in calls:
                number += 1
                named.append({"id": f"call{number:05d}", **call})
            waiting = [call["id"] for call in named]
            yield {**message, "tool_calls": named}
        elif message["role"] == "tool" and waiting:
            given = message.get("tool_call_id", waiting[0])
            waiting = [other for other in waiting if other != given]
            yield {**message, "tool_call_id": given}
        else:
            yield message


def _tool(tool: object, place: str) -> Json:
    if not isinstance(tool, dict):
        raise ShapeError(f"{place} is {kind(tool)}, not an object with a name and parameters")
    function = tool.get("function", {key: value for key, value in tool.items() if key != "type"})
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise ShapeError(f"{place} has no name: {json.dumps(tool)[:60]}")
    return {"type": "function", "function": function}
