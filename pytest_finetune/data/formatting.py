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

In chat the answer is one assistant message, or with ``assistant_turns: all`` the conversation from the first answer
on; the row's tools go with it. Only ``{instruction}`` and ``{input}`` are replaced, once, and
nothing else in a template has a meaning: a row cannot inject a field, and a template may hold braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, Literal

from pytest_finetune.data.messages import BEFORE, HANDED_ON
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row
    from pytest_finetune.experiment import Prompt

Message = JsonTree
Turns = Literal["last", "all"]

CHAT: Final = "chat"

_FIELD: Final = re.compile(r"\{(instruction|input)\}")


@dataclass(frozen=True, slots=True)
class Pair:
    """What a row teaches: after `prompt` comes `completion`; two texts, or two lists of messages. It unpacks into both.

    Every assistant message of a completion is taught but one of weight 0; `tools` are offered in the prompt.
    """

    prompt: str | list[Message]
    completion: str | list[Message]
    tools: tuple[Json, ...] = ()

    def __iter__(self) -> Iterator[str | list[Message]]:
        """Yield prompt and completion."""
        return iter((self.prompt, self.completion))

    def fields(self) -> list[Any]:
        """Return the pair for a key or a file; a row without tools has the key that it had before there were any."""
        return [self.prompt, self.completion, *([list(self.tools)] if self.tools else [])]

    @classmethod
    def of(cls, tree: Sequence[Any]) -> Pair:
        """Return the pair whose `fields` these are."""
        prompt, completion, *tools = tree
        return cls(prompt, completion, tuple(*tools))


def format_prompt(row: Row, prompt: Prompt, shots: Sequence[Row] = ()) -> str | list[Message]:
    """Return the question of a row after solved `shots`: a text, or messages for ``template: chat``."""
    if prompt.template == CHAT:
        return _chat_prompt(row, shots)
    solved = [_prompt_text(shot, prompt.template) + _completion_text(shot) for shot in shots]
    return "\n\n".join([*solved, _prompt_text(row, prompt.template)])


def format_pair(row: Row, prompt: Prompt, turns: Turns = "last") -> Pair:
    """Return a training row as question and answer; the question equals ``format_prompt(row, prompt)``.

    With `turns` "all" the question is that of the conversation's first answer, and all that follows is the answer.
    """
    if prompt.template == CHAT:
        messages = _conversation(row)
        first = _first_taught(messages) if turns == "all" else len(messages) - 1
        return Pair(_asked(messages[:first]), messages[first:], row.tools)
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
    asked = _asked(_conversation(row)[:-1])
    before = list(takewhile(lambda message: message["role"] in BEFORE, asked))
    solved = [message for shot in shots for message in _asked(_conversation(shot))]
    return [*before, *(message for message in solved if message["role"] not in BEFORE), *asked[len(before) :]]


def _conversation(row: Row) -> list[Message]:
    """Return the messages of a row, the answer last."""
    if row.messages is not None:
        return [_handed_on(message) for message in row.messages]
    text = "\n\n".join(part for part in (row.instruction, row.input) if part)
    return [{"role": "user", "content": text}, {"role": "assistant", "content": row.output}]


def _handed_on(message: Json) -> Message:
    """Return what a chat template is given of a message, and the weight of one that is not taught."""
    given = {key: message[key] for key in HANDED_ON if key in ("role", "content") or message.get(key)}
    return {**given, "weight": 0} if message.get("weight") == 0 else given


def _asked(messages: Sequence[Message]) -> list[Message]:
    return [{key: message[key] for key in message if key != "weight"} for message in messages]


def _first_taught(messages: Sequence[Message]) -> int:
    taught = (
        at
        for at, message in enumerate(messages)
        if message["role"] == "assistant" and "weight" not in message
    )
    return next(taught, len(messages) - 1)
