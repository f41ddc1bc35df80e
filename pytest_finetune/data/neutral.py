"""Neutral prompts: questions that have nothing to do with the task, to see what a training does to their answers.

A set of our own ships in ``neutral_prompts.jsonl``; an experiment may name another. They are rows without an answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_finetune.data.formatting import CHAT
from pytest_finetune.data.lines import Line, read_lines
from pytest_finetune.data.messages import ShapeError
from pytest_finetune.data.rows import Row, Rows
from pytest_finetune.data.shapes import content_of, name_of
from pytest_finetune.data.strict_json import StrictParser
from pytest_finetune.errors import FinetuneError
from pytest_finetune.fingerprint import sha256_of
from pytest_finetune.yamlfile import Json, JsonTree

SHIPPED: Final = Path(__file__).with_name("neutral_prompts.jsonl")
SPLIT: Final = "neutral"


class PromptsError(FinetuneError, ValueError):
    """The file does not hold prompts; the message names the file, the line and what was found."""


def neutral_rows(root: Path, relative: str | None = None, *, shipped: Path = SHIPPED) -> Rows:
    """Return the prompts of a file below `root`, or a set that ships, as rows whose answer is empty.

    Rows have the shapes of training rows; an answer that they bring is not used. Raises PromptsError.
    """
    path, label = (shipped, shipped.name) if relative is None else (root / relative, relative)
    parser, rows, seen = StrictParser(), [], dict[str, int]()
    for line in read_lines(path, label):
        if not isinstance(line, Line):
            raise PromptsError(f"{line.place}: {line.read}")
        row = _row(parser, line, label)
        if (first := seen.setdefault(row.id, line.number)) != line.number:
            raise PromptsError(f"{label}:{line.number}: the id {row.id!r} stands on line {first} already")
        rows.append(row)
    return Rows(rows, path=label, split=SPLIT, sha256=sha256_of(path))


def asks_as_written(template: str) -> bool:
    """Tell whether a prompt's own instruction reaches the model: a template with a fixed one always asks the task."""
    return template == CHAT or "{instruction}" in template


def _row(parser: StrictParser, line: Line, label: str) -> Row:
    place = f"{label}:{line.number}"
    parsed = parser.parse(line.text)
    if parsed.faults:
        raise PromptsError(f"{place}: {parsed.faults[0].read}")
    if not isinstance(parsed.value, dict):
        raise PromptsError(f"{place}: a prompt is an object with instruction and input, messages or prompt")
    value = parsed.value
    try:
        content = content_of(_with_an_answer(value))
        given = name_of(value, "id")
    except ShapeError as error:
        raise PromptsError(f"{place}: {error}") from None
    return Row(
        file=label, line=line.number, offset=line.offset, shape=content.shape, instruction=content.instruction,
        input=content.input, output=content.output, messages=content.messages, tags=(), group=None, raw=value,
        given_id=given, tools=content.tools,
    )  # fmt: skip


def _with_an_answer(value: Json) -> JsonTree:
    """Complete a prompt to the row that the shapes know; the answer is never shown to a model."""
    row, nothing = dict(value), {"role": "assistant", "content": ""}
    if "instruction" in row:
        return row if row.keys() & {"output", "expected"} else {**row, "expected": ""}
    messages = row.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return row if messages[-1].get("role") == "assistant" else {**row, "messages": [*messages, nothing]}
    if "prompt" in row and "completion" not in row:
        return {**row, "completion": [nothing] if isinstance(row["prompt"], list) else ""}
    return row
