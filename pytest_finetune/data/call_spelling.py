"""How a chat template wants calls of tools to be handed to it, found by letting it write one and reading that back.

Some templates write arguments that are an object, others join them as text; some see the calls of a message only where
it has no content. What a model learns is the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pytest_finetune.data.chat_template import Render, TemplateError
from pytest_finetune.data.tool_calls import read_calls

if TYPE_CHECKING:
    from pytest_finetune.data.formatting import Message

_ARGUMENTS: Final = {"city": "Rome", "days": 2}
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "the0sentinel1tool",
        "description": "Tell the weather.",
        "parameters": {
            "type": "object",
            "required": ["city", "days"],
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    },
}
Way = Literal["object", "text"]
_WAYS: Final[tuple[Way, ...]] = ("object", "text")
_QUESTION: Final = {"role": "user", "content": "Hello"}
_ANSWER: Final = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call00001",
            "type": "function",
            "function": {"name": "the0sentinel1tool", "arguments": _ARGUMENTS},
        }
    ],
}


class Spelling(NamedTuple):
    """One way to hand over calls; `text` is how a template that knows it writes a call, empty where it writes none."""

    arguments: Way
    content: str | None
    text: str = ""

    def spelt(self, messages: Sequence[Message]) -> list[Message]:
        """Return messages with their calls in this spelling."""
        return [self._message(message) if message.get("tool_calls") else message for message in messages]

    def _message(self, message: Message) -> Message:
        calls = [{**call, "function": self._function(call["function"])} for call in message["tool_calls"]]
        return {**message, "content": message["content"] or self.content, "tool_calls": calls}

    def _function(self, function: Any) -> Any:
        if self.arguments == "object":
            return function
        return {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}


def spelling_of(render: Render) -> Spelling:
    """Return the first spelling in which the template writes a call that is read as the same call."""
    ways = [Spelling(arguments, content) for arguments, content in product(_WAYS, ("", None))]
    return next((way._replace(text=text) for way in ways if (text := _written(render, way))), ways[0])


def _written(render: Render, way: Spelling) -> str:
    """Return what the template writes for an answer that is one call; empty where no such call is read in it."""
    try:
        asked = render([_QUESTION], [_TOOL], True)
        whole = render(way.spelt([_QUESTION, _ANSWER]), [_TOOL], False)
    except TemplateError:
        return ""
    text = whole[len(shared(asked, whole)) :]
    calls = [(call.name, call.arguments, call.malformed) for call in read_calls(text, [_TOOL])]
    return text if calls == [("the0sentinel1tool", _ARGUMENTS, "")] else ""


def shared(left: str, right: str) -> str:
    """Return the common beginning of two texts."""
    end = next(
        (at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )
    return left[:end]
