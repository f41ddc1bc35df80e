"""The row shapes that people use, read into one: instruction and input, the expected answer, tags, group, id.

Three shapes are accepted: ``instruction``/``input``/``output`` (held-out rows: ``expected``), ``messages``
that end with the assistant, and ``prompt``/``completion`` as two texts or as two lists of messages. An
instruction row with ``system`` or ``history`` is a conversation, and is read as one. Each may bring ``tools``.
ShareGPT's ``conversations`` are messages by other names; ``question``/``answer``, ``text``/``label`` and
``input``/``output`` without an instruction are a prompt and its completion.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from pytest_finetune.data.messages import (
    BEFORE,
    ONLY_TEXT,
    ShapeError,
    kind,
    messages_of,
    text_of,
    tools_of,
    transcript,
)
from pytest_finetune.wording import nearest
from pytest_finetune.yamlfile import Json, JsonTree

SHAPES: Final = ("instruction", "messages", "prompt")

NAMES: Final = (
    "instruction", "input", "output", "expected", "system", "history", "messages", "prompt", "completion", "tools",
    "tags", "group", "id", "conversations", "question", "answer", "text", "label",
)  # fmt: skip
_KNOWN_SET: Final = frozenset(NAMES)
_PAIRS: Final = (("question", "answer"), ("text", "label"), ("input", "output"))
_SHAREGPT: Final = {"human": "user", "gpt": "assistant", "observation": "tool"}
"""The roles of ShareGPT files that have other names here."""
_ANSWERS: Final = frozenset({"output", "expected", "completion", "messages"})


_LONG_NAME: Final = 40
"""A name of a column has fewer characters; a text has more."""
_PICTURES: Final = ("image", "images", "video", "videos", "audio", "audios")
"""Where data sets for models that look and listen keep what these get; a row without it would ask another question."""


class Content(NamedTuple):
    """What a row says, whatever its shape."""

    shape: str
    instruction: str
    input: str
    output: str
    messages: tuple[Json, ...] | None
    tools: tuple[Json, ...] = ()


def content_of(row: Json) -> Content:
    """Read a row's text and its tools; ShapeError says what is missing or has the wrong type."""
    if "chosen" in row and "rejected" in row and not row.keys() & _ANSWERS:
        raise ShapeError(
            "chosen and rejected are a pair for preference training (DPO); a supervised fine-tune learns one answer",
            "Write the chosen one as completion, or train with a DPO trainer through the hook pytest_finetune_train.",
        )
    if seen := next((key for key in _PICTURES if row.get(key)), None):
        raise ShapeError(
            f"the key {seen!r} holds a picture or a sound: only text can be taught and asked", ONLY_TEXT
        )
    content = _content_of(row)
    return content._replace(tools=tools_of(row)) if "tools" in row else content


def _content_of(row: Json) -> Content:
    if "instruction" in row:
        return _instruction_row(row)
    if "messages" in row:
        return conversation(messages_of(row, "messages"))
    if "conversations" in row:
        return conversation(messages_of({"messages": list(_sharegpt(row))}, "messages"))
    if "prompt" in row:
        return _prompt_row(row)
    for asked, answer in _PAIRS:
        if asked in row and (answer in row or "expected" in row):
            if asked == "input":
                _refuse_misspelt(row, "instruction")
            return _pair(row, asked, answer if answer in row else "expected")
    raise ShapeError(f"no instruction, messages or prompt; {_found_keys(row)}")


def _pair(row: Json, asked: str, answer: str) -> Content:
    """Read a question and its answer, which stand under these names."""
    if not isinstance(row[asked], str) or not isinstance(row[answer], str):
        raise ShapeError(
            f"{asked} is {kind(row[asked])} and {answer} is {kind(row[answer])}: both must be texts (a label's name, "
            "not its number)",
            "Write the text, such as the label's name, in its place.",
        )
    return _after(_before(row), Content("prompt", "", row[asked], row[answer], None))


def renamed(row: JsonTree, columns: Mapping[str, str]) -> JsonTree:
    """Return a row under our names, where `columns` says which of the file's each is; absent ones are left out."""
    if not columns:
        return row
    taken = set(columns.values())
    kept = {name: value for name, value in row.items() if name not in taken and name not in columns}
    return {**kept, **{name: row[theirs] for name, theirs in columns.items() if theirs in row}}


def absent_column(row: Json, columns: Mapping[str, str]) -> str:
    """Say which column `columns` names that a row does not have, and which was probably meant; empty where none is."""
    for ours, theirs in columns.items():
        if theirs not in row:
            lowered = {name.lower(): name for name in row}
            near = nearest(theirs.lower(), lowered)
            meant = f"; did you mean {lowered[near]!r}?" if near else ""
            return f"columns takes {ours} from {theirs!r}, which is not there{meant}"
    return ""


def _sharegpt(row: Json) -> Iterator[Json]:
    """Yield the messages of a ShareGPT row, after its `system`."""
    yield from _system(row)
    turns = row["conversations"]
    for turn in turns if isinstance(turns, list) else ():
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            if (
                isinstance(turn, dict) and "role" in turn
            ):  # the spelling of messages under the name of ShareGPT
                yield turn
                continue
            raise ShapeError("conversations must be a list of objects with from and value")
        sender = turn["from"]
        role = _SHAREGPT.get(sender, sender) if isinstance(sender, str) else sender
        if role == "function_call":
            yield {"role": "assistant", "content": None, "function_call": turn["value"]}
        else:
            yield {"role": role, "content": turn["value"]}


def tags_of(row: Json) -> tuple[str, ...]:
    """Return the row's tags; ShapeError when they are not a list of texts."""
    tags = row.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        raise ShapeError("tags must be a list of texts", 'Write them as a list, as in ["short", "angry"].')
    return tuple(tags)


def name_of(row: Json, key: str) -> str | None:
    """Return ``group`` or ``id`` as text (a whole number is taken as its digits), None when absent."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ShapeError(f"{key} must be a text", f"Write the {key} as a text in quotes, or leave it out.")
    return value


def _instruction_row(row: Json) -> Content:
    instruction, given = row["instruction"], row.get("input", "")
    if not isinstance(instruction, str) or not isinstance(given, str):
        key = "input" if isinstance(instruction, str) else "instruction"
        raise ShapeError(f"{key} must be a text, found {kind(row[key])}", _as_text(row[key]))
    answers = [key for key in ("output", "expected") if key in row]
    if len(answers) != 1:
        both = "both output and expected" if answers else "neither output nor expected"
        raise ShapeError(f"{both}; {_found_keys(row)}")
    answer = row[answers[0]]
    if not isinstance(answer, str):
        hint = ": write the JSON as a text" if isinstance(answer, dict | list) else ""
        raise ShapeError(f"{answers[0]} must be a text, found {kind(answer)}{hint}", _as_text(answer))
    if "input" not in row and row.keys() - _KNOWN_SET:
        _refuse_misspelt(row, "input")
    return _after(_before(row), Content("instruction", instruction, given, answer, None))


def _before(row: Json) -> tuple[Json, ...]:
    """Return the messages that stand before a question in keys of their own."""
    return (*_system(row), *_history(row))


def _after(before: tuple[Json, ...], content: Content) -> Content:
    """Return a question and its answer after what was said before, as the conversation that it then is."""
    if not before:
        return content
    asked = {"role": "user", "content": "\n\n".join(filter(None, (content.instruction, content.input)))}
    return conversation((*before, asked, {"role": "assistant", "content": content.output}))


def _system(row: Json) -> Iterator[Json]:
    system = row.get("system") or ""
    if not isinstance(system, str):
        raise ShapeError(f"system must be a text, found {kind(system)}")
    if system:
        yield {"role": "system", "content": system}


def _history(row: Json) -> Iterator[Json]:
    """Yield the turns before the question, written as Alpaca rows do: a list of pairs, question and answer."""
    history = row.get("history") or []
    pairs = history if isinstance(history, list) else [history]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ShapeError("history must be a list of pairs of texts: [[question, answer], ...]")
        yield from (
            {"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)
        )


def conversation(messages: tuple[Json, ...]) -> Content:
    """Read a conversation whose last message is the answer; ShapeError where there is no question or no answer."""
    if messages[-1]["role"] != "assistant":
        raise ShapeError(f"the last message is the {messages[-1]['role']}'s, not the assistant's")
    if not any(message["role"] == "user" for message in messages[:-1]):
        raise ShapeError("no user message before the answer")
    system = "\n".join(m["content"] for m in messages[:-1] if m["role"] in BEFORE)
    return Content("messages", system, transcript(messages[:-1]), text_of(messages[-1]), messages)


def _prompt_row(row: Json) -> Content:
    if "completion" not in row:
        raise ShapeError(f"a prompt without completion; {_found_keys(row)}")
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return Content("prompt", "", prompt, completion, None)
    if isinstance(prompt, list) and isinstance(completion, list):
        if len(completion) != 1:
            raise ShapeError("completion must be one assistant message")
        return conversation(messages_of({"prompt": [*prompt, *completion]}, "prompt"))
    raise ShapeError(
        f"prompt is {kind(prompt)} and completion is {kind(completion)}: both texts or both message lists",
        _as_text(completion if isinstance(prompt, str) else prompt),
    )


def _as_text(value: object) -> str | None:
    """Return what to do about a value that stands where a text is due; None where it may be a list of messages."""
    if value is None:
        return "Write the text in place of null, or take the row out."
    if isinstance(value, bool | int | float):
        return f"Write it in quotes, as {json.dumps(json.dumps(value))}; the name of a label says more than its number."
    return "Write the JSON as a text, as `json.dumps` gives it." if isinstance(value, dict) else None


def _refuse_misspelt(row: Json, key: str) -> None:
    lowered = {name.lower(): name for name in sorted(row.keys() - _KNOWN_SET)}
    near = nearest(key, lowered, cutoff=0.75)
    if near:
        theirs = lowered[near]
        raise ShapeError(
            f"no {key}, but a key {theirs!r}: did you mean {key!r}?",
            f"Rename it, or map it: `paths: {{columns: {{{key}: {theirs}}}}}`, `import --column {key}={theirs}`.",
        )


def _found_keys(row: Json) -> str:
    keys = list(row)
    shown = ", ".join(repr(key) for key in keys[:8]) or "none"
    for key in keys:
        near = nearest(key, (known for known in NAMES if known not in row), cutoff=0.75)
        if near and key not in _KNOWN_SET:
            return f"found the keys {shown}; did you mean {near!r} by {key!r}?"
    headless = any(len(key) > _LONG_NAME for key in keys)
    return f"found the keys {shown}{': is the first line a row, and not the names?' if headless else ''}"
