"""The one place where text for the model is made: training and evaluation call it and are byte-equal.

========================  ==========================================  ===================================
row                       template                                    chat
========================  ==========================================  ===================================
instruction/input/output  the template with ``{instruction}`` and     one user message: instruction,
                          ``{input}`` replaced; answer after a space  blank line, input
messages                  instruction is the system text, input the   the messages as they stand
                          conversation up to the answer
prompt/completion         both texts as they stand                    prompt as user
========================  ==========================================  ===================================

In chat the answer is one assistant message. Only ``{instruction}`` and ``{input}`` are replaced, once, and
nothing else in a template has a meaning: a row cannot inject a field, and a template may hold braces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row
    from pytest_finetune.experiment import Prompt

Message = JsonTree

CHAT: Final = "chat"

_FIELD: Final = re.compile(r"\{(instruction|input)\}")


class Pair(NamedTuple):
    """What a row teaches: after `prompt` comes `completion`; two texts, or two lists of messages with their `tools`."""

    prompt: str | list[Message]
    completion: str | list[Message]
    tools: Sequence[Json] = ()

    def fields(self) -> list[Any]:
        """Return what is part of a key: the tools only where there are some."""
        return [self.prompt, self.completion, *([list(self.tools)] if self.tools else [])]


def format_prompt(row: Row, prompt: Prompt, shots: Sequence[Row] = ()) -> str | list[Message]:
    """Return the question of a row after solved `shots`: a text, or messages for ``template: chat``."""
    if prompt.template == CHAT:
        return _chat_prompt(row, shots)
    solved = [_prompt_text(shot, prompt.template) + _completion_text(shot) for shot in shots]
    return "\n\n".join([*solved, _prompt_text(row, prompt.template)])


def format_pair(row: Row, prompt: Prompt) -> Pair:
    """Return a training row as question and answer; the question equals ``format_prompt(row, prompt)``."""
    if prompt.template == CHAT:
        return Pair(_chat_prompt(row, ()), [_answer(row)])
    return Pair(_prompt_text(row, prompt.template), _completion_text(row))


def fill(template: str, *, instruction: str, input: str) -> str:  # noqa: A002 (the field's name)
    """Replace the two fields of a template.

    >>> fill("{instruction} {input} {other}", instruction="{input}", input="x")
    '{input} x {other}'
    """
    fields = {"instruction": instruction, "input": input}
    return _FIELD.sub(lambda match: fields[match[1]], template)


def _prompt_text(row: Row, template: str) -> str:
    if row.shape == "prompt":
        return row.input
    return fill(template, instruction=row.instruction, input=row.input)


def _completion_text(row: Row) -> str:
    return row.output if row.shape == "prompt" else f" {row.output}"


def _chat_prompt(row: Row, shots: Sequence[Row]) -> list[Message]:
    asked = _question(row)
    systems = [message for message in asked if message["role"] in ("system", "developer")]
    rest = asked[len(systems) :]
    solved = [message for shot in shots for message in (*_without_system(_question(shot)), _answer(shot))]
    return [*systems, *solved, *rest]


def _question(row: Row) -> list[Message]:
    if row.messages is not None:
        return [{"role": message["role"], "content": message["content"]} for message in row.messages[:-1]]
    text = "\n\n".join(part for part in (row.instruction, row.input) if part)
    return [{"role": "user", "content": text}]


def _without_system(messages: Sequence[Message]) -> list[Message]:
    return [message for message in messages if message["role"] not in ("system", "developer")]


def _answer(row: Row) -> Message:
    return {"role": "assistant", "content": row.output}
