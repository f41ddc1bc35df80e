"""Take what a model wrote apart into its answer and its thinking, the same for every runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.data.chat_template import TemplateError

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.data.chat import Chat


def taken_apart(
    prompts: Sequence[Prompted], answers: Sequence[Answer], chat: Chat | None, tokens: Callable[[str], int]
) -> list[Answer]:
    """Return the answers to prompts as rules see them; `chat` is how the base is asked, `tokens` counts a text's.

    A prompt that is text, and a base that writes nothing but its answer, leave them as they are. Raises AnsweringError.
    """
    if chat is None or chat.reading.plain:
        return [_counted(answer, tokens) for answer in answers]
    return [
        answer if isinstance(asked.prompt, str) else _apart(answer, _question(chat, asked), chat, tokens)
        for asked, answer in zip(prompts, answers, strict=True)
    ]


def _question(chat: Chat, asked: Prompted) -> str:
    assert not isinstance(asked.prompt, str)
    try:
        return chat.asked(asked.prompt, asked.tools)
    except TemplateError as error:
        raise AnsweringError(f"{asked.id} (line {asked.line}): {error}") from None


def _apart(answer: Answer, question: str, chat: Chat, tokens: Callable[[str], int]) -> Answer:
    if answer.thinking is not None:  # the server has taken it apart
        return _counted(answer, tokens)
    read = chat.reading.read(answer.response, question, stopped=answer.stopped)
    if read.answer == answer.response:
        return answer
    thinking_tokens = min(answer.tokens, tokens(answer.response[: read.until]))
    return dataclasses.replace(
        answer,
        response=read.answer,
        thinking=read.thinking,
        thinking_tokens=thinking_tokens,
        raw=answer.response,
    )


def _counted(answer: Answer, tokens: Callable[[str], int]) -> Answer:
    """Count the thinking that a server has told apart without its length."""
    if answer.thinking is None or answer.thinking_tokens:
        return answer
    return dataclasses.replace(answer, thinking_tokens=min(answer.tokens, tokens(answer.thinking)))
