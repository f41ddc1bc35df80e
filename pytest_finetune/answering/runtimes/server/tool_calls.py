"""Tools in the words of OpenAI's chat completions: offered, called before, and called in the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pytest_finetune.data.call_spelling import Spelling
from pytest_finetune.data.tool_calls import with_calls
from pytest_finetune.yamlfile import Json, JsonTree

_OPENAI: Final = Spelling("text", None)


def offered(messages: Sequence[JsonTree], tools: Sequence[Json]) -> JsonTree:
    """Return what a request says of a conversation and its tools."""
    return {"messages": _OPENAI.spelt(messages), **({"tools": list(tools)} if tools else {})}


def said(message: Any) -> str | None:
    """Return an answer as one text, the calls that the server has told apart after it; None where it has no text."""
    calls = message.get("tool_calls")
    return with_calls(message.get("content"), calls) if calls else message["content"]
