"""What a chat template leaves out of a conversation: found by writing the row with it and without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_finetune.data.chat_template import TemplateError
from pytest_finetune.data.formatting import CHAT, Message, format_pair, format_prompt
from pytest_finetune.data.tool_calls import read_calls

if TYPE_CHECKING:
    from pytest_finetune.data.chat import Chat
    from pytest_finetune.data.rows import Row
    from pytest_finetune.data.tokens import Tokenization

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def not_written(row: Row, tokenization: Tokenization) -> Iterator[tuple[str, str]]:
    """Yield what of a row never reaches the model, as the rule of a finding and what was read."""
    if tokenization.prompt.template != CHAT:
        if row.tools:
            yield (
                "tools/not-written",
                f"prompt.template is a text, without the {len(row.tools)} tools of the row",
            )
        return
    asked = format_prompt(row, tokenization.prompt)
    answer = format_pair(row, tokenization.prompt).completion[-1]
    if tokenization.chat is None or isinstance(asked, str) or isinstance(answer, str):
        return
    if not row.tools and all(message.keys() <= {"role", "content"} for message in (*asked, answer)):
        return
    try:
        yield from _left_out(tokenization.chat, asked, answer, row)
    except TemplateError:
        return  # a row that the template refuses has a finding of its own


def _left_out(chat: Chat, asked: list[Message], answer: Message, row: Row) -> Iterator[tuple[str, str]]:
    question = chat.asked(asked, row.tools)
    if row.tools and question == chat.asked(asked):
        yield "tools/not-written", f"the chat template writes none of the {len(row.tools)} tools"
    called = any("tool_calls" in message for message in asked)
    if called and question == chat.asked(_without(asked, "tool_calls"), row.tools):
        yield "tools/not-written", "the chat template writes no call of an earlier answer"
    if "tool_calls" in answer:
        taught = chat.taught(asked, [_without([answer], "weight")[0]], row.tools)
        said = taught.whole[len(taught.asked) :]
        if read_calls(said, row.tools) != row.tool_calls:
            yield (
                "tools/not-written",
                f"no such call is read in what the chat template writes: {said.strip()[:80]!r}",
            )
    named = any("name" in message and message["role"] != "tool" for message in asked)
    if named and question == chat.asked(_without(asked, "name"), row.tools):
        yield "messages/not-written", "the chat template writes no name"
    if any(key in answer for key in _THOUGHTS):
        bare = chat.taught(asked, _without([answer], "weight", *_THOUGHTS), row.tools)
        if chat.taught(asked, _without([answer], "weight"), row.tools) == bare:
            yield "messages/not-written", "the chat template writes no thinking of the answer"


def _without(messages: Sequence[Message], *keys: str) -> list[Message]:
    return [{key: value for key, value in message.items() if key not in keys} for message in messages]
