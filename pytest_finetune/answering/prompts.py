"""The prompts of the arms: every held-out row as it is asked, training rows before the question or not."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_finetune.data.formatting import CHAT, format_prompt
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.experiment import Prompt

Message = JsonTree


class Rendered(str):
    """A text that a chat template has written: the special tokens stand in it, none is to be added."""

    __slots__ = ()


class Prompted(NamedTuple):
    """One row as it is asked: text, or chat messages that the base's own template turns into text.

    `tools` are those of the conversation, `arguments` the template's own, such as ``enable_thinking``.
    """

    id: str
    line: int
    prompt: str | Sequence[Message]
    tools: Sequence[Json] = ()
    arguments: Json = MappingProxyType({})

    @property
    def recorded(self) -> str:
        """The prompt as an answer of a server keeps it: its text, or its messages as JSON."""
        return self.prompt if isinstance(self.prompt, str) else json.dumps(self.prompt, ensure_ascii=False)

    def fields(self) -> list[Any]:
        """Return what is part of a key: what a chat template is given besides the messages only where it is."""
        given = {"tools": list(self.tools), "arguments": dict(self.arguments)}
        more = {name: value for name, value in given.items() if value}
        return [self.id, self.prompt, *([more] if more else [])]


def arm_prompts(rows: Sequence[Row], prompt: Prompt, shots: Sequence[Row] = ()) -> tuple[Prompted, ...]:
    """Return the prompts of an arm, one a row in the rows' order; `shots` stand before each question."""
    if prompt.template != CHAT:
        return tuple(Prompted(row.id, row.line, format_prompt(row, prompt, shots)) for row in rows)
    given = prompt.chat_template_kwargs
    return tuple(
        Prompted(row.id, row.line, format_prompt(row, prompt, shots), row.tools, given) for row in rows
    )


def choose_shots(
    train: Rows | Sequence[Row], few_shot: int, seed: int, label_field: str | None
) -> tuple[Row, ...]:
    """Choose `few_shot` different training rows by seed; fewer, which a data check refuses, when there are no more.

    With a label field the labels take turns, so that each appears as often as the others can follow; a row
    whose output is no JSON object with that field is chosen last. The choice depends on the rows' content, not
    on their order in the file.
    """
    draw = random.Random(seed)
    different = {row.digest: row for row in reversed(train)}
    rows = [different[digest] for digest in sorted(different)]
    draw.shuffle(rows)
    if label_field is None:
        return tuple(rows[:few_shot])
    queues: dict[str, list[Row]] = {}
    unlabelled: list[Row] = []
    for row in rows:
        label = _label(row, label_field)
        (unlabelled if label is None else queues.setdefault(label, [])).append(row)
    return tuple([*_take_turns(list(queues.values())), *unlabelled][:few_shot])


def _take_turns(queues: list[list[Row]]) -> list[Row]:
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def _label(row: Row, field: str) -> str | None:
    """Return the label as JSON text, so that 1 and "1" are two labels; None where there is none."""
    try:
        output = json.loads(row.output)
    except ValueError:
        return None
    return json.dumps(output[field], sort_keys=True) if isinstance(output, dict) and field in output else None
