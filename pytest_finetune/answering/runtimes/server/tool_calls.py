"""Tools in the words of OpenAI's chat completions: offered, called before, and called in the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from pytest_finetune.data.call_spelling import Spelling
from pytest_finetune.yamlfile import Json, JsonTree

_OPENAI: Final = Spelling("text", None)


def offered(messages: Sequence[JsonTree], tools: Sequence[Json]) -> JsonTree:
    """Return what a request says of a conversation and its tools."""
    return {"messages": _OPENAI.spelt(messages), **({"tools": list(tools)} if tools else {})}


def said(message: Any) -> str | None:
    """Return an answer as one text, the calls that the server has told apart after it; None where it has no text.

    Arguments stay as the server gives them: what is no JSON there is malformed here too.
    """
    calls = message.get("tool_calls")
    if not calls:
        return message["content"]  # type: ignore[no-any-return]
    content = message.get("content")
    return "\n".join([*([content] if content else []), *(_written(call["function"]) for call in calls)])


def _written(function: Any) -> str:
    name = json.dumps(function["name"], ensure_ascii=False)
    arguments = function.get("arguments") or "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {text}}}\n</tool_call>'
