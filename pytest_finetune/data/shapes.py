"""The row shapes that people use, read into one: instruction and input, the expected answer, tags, group, id.

Three shapes are accepted: ``instruction``/``input``/``output`` (held-out rows: ``expected``), ``messages``
that end with the assistant, and ``prompt``/``completion`` as two texts or as two lists of messages.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final, NamedTuple

from pytest_finetune.errors import FinetuneError
from pytest_finetune.yamlfile import Json

SHAPES: Final = ("instruction", "messages", "prompt")
ROLES: Final = ("system", "developer", "user", "assistant", "tool")

_KNOWN: Final = (
    "instruction", "input", "output", "expected", "messages", "prompt", "completion", "tags", "group", "id",
)  # fmt: skip
_KNOWN_SET: Final = frozenset(_KNOWN)


class Content(NamedTuple):
    """What a row says, whatever its shape."""

    shape: str
    instruction: str
    input: str
    output: str
    messages: tuple[Json, ...] | None


class ShapeError(FinetuneError, ValueError):
    """The row has no shape that we read; the message says what was found."""


def content_of(row: Json) -> Content:
    """Read a row's text; ShapeError says what is missing or has the wrong type."""
    if "instruction" in row:
        return _instruction_row(row)
    if "messages" in row:
        return _messages_row(_messages(row, "messages"))
    if "prompt" in row:
        return _prompt_row(row)
    raise ShapeError(f"no instruction, messages or prompt; {_found_keys(row)}")


def tags_of(row: Json) -> tuple[str, ...]:
    """Return the row's tags; ShapeError when they are not a list of texts."""
    tags = row.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        raise ShapeError("tags must be a list of texts")
    return tuple(tags)


def name_of(row: Json, key: str) -> str | None:
    """Return ``group`` or ``id`` as text (a whole number is taken as its digits), None when absent."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ShapeError(f"{key} must be a text")
    return value


def transcript(messages: Sequence[Json]) -> str:
    """Return the question of a conversation as text: a single message alone, else lines with the role."""
    asked = [message for message in messages if message["role"] not in ("system", "developer")]
    if len(asked) == 1:
        return str(asked[0]["content"])
    return "\n".join(f"{str(message['role']).capitalize()}: {message['content']}" for message in asked)


def _instruction_row(row: Json) -> Content:
    instruction, given = row["instruction"], row.get("input", "")
    if not isinstance(instruction, str) or not isinstance(given, str):
        key = "input" if isinstance(instruction, str) else "instruction"
        raise ShapeError(f"{key} must be a text, found {_kind(row[key])}")
    answers = [key for key in ("output", "expected") if key in row]
    if len(answers) != 1:
        both = "both output and expected" if answers else "neither output nor expected"
        raise ShapeError(f"{both}; {_found_keys(row)}")
    answer = row[answers[0]]
    if not isinstance(answer, str):
        hint = ": write the JSON as a text" if isinstance(answer, dict | list) else ""
        raise ShapeError(f"{answers[0]} must be a text, found {_kind(answer)}{hint}")
    if "input" not in row and row.keys() - _KNOWN_SET:
        _refuse_misspelt(row, "input")
    return Content("instruction", instruction, given, answer, None)


def _messages_row(messages: tuple[Json, ...]) -> Content:
    if messages[-1]["role"] != "assistant":
        raise ShapeError(f"the last message is the {messages[-1]['role']}'s, not the assistant's")
    if not any(message["role"] == "user" for message in messages[:-1]):
        raise ShapeError("no user message before the answer")
    system = "\n".join(m["content"] for m in messages[:-1] if m["role"] in ("system", "developer"))
    return Content("messages", system, transcript(messages[:-1]), messages[-1]["content"], messages)


def _prompt_row(row: Json) -> Content:
    if "completion" not in row:
        raise ShapeError(f"a prompt without completion; {_found_keys(row)}")
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return Content("prompt", "", prompt, completion, None)
    if isinstance(prompt, list) and isinstance(completion, list):
        answer = _messages(row, "completion")
        if len(answer) != 1:
            raise ShapeError("completion must be one assistant message")
        return _messages_row((*_messages(row, "prompt"), *answer))
    raise ShapeError(
        f"prompt is {_kind(prompt)} and completion is {_kind(completion)}: both texts or both message lists"
    )


def _messages(row: Json, key: str) -> tuple[Json, ...]:
    messages = row[key]
    if not isinstance(messages, list) or not messages:
        raise ShapeError(f"{key} must be a list with at least one message")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise ShapeError(
                f"{key}: message {number} is {_kind(message)}, not an object with role and content"
            )
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ShapeError(f"{key}: message {number} has the role {role!r}; known: {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise ShapeError(f"{key}: the content of message {number} must be a text, found {_kind(content)}")
    return tuple(messages)


def _refuse_misspelt(row: Json, key: str) -> None:
    near = difflib.get_close_matches(key, sorted(row.keys() - _KNOWN_SET), n=1, cutoff=0.75)
    if near:
        raise ShapeError(f"no {key}, but a key {near[0]!r}: did you mean {key!r}?")


def _found_keys(row: Json) -> str:
    keys = list(row)
    shown = ", ".join(repr(key) for key in keys[:8]) or "none"
    for key in keys:
        near = difflib.get_close_matches(
            key, [known for known in _KNOWN if known not in row], n=1, cutoff=0.75
        )
        if near and key not in _KNOWN_SET:
            return f"found the keys {shown}; did you mean {near[0]!r} by {key!r}?"
    return f"found the keys {shown}"


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")
