"""One conversation in tokens: which of them are the question's, and which are taught.

Of several answers each must stand in the whole conversation as it is asked and answered alone: the text of the question
up to it, and the text up to its own end, are beginnings of the whole. Where a template writes earlier answers otherwise
(it leaves out their thinking, say), the conversation cannot teach them all at once. A ``{% generation %}`` block is not
asked: it says where an answer stands, not that it ends as it would alone (gpt-oss ends only the last with its stop).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.data.chat_template import TemplateError

if TYPE_CHECKING:
    from pytest_finetune.data.chat import Chat, Taught
    from pytest_finetune.data.formatting import Message, Pair

Encode = Callable[[str], list[int]]
Spans = tuple[tuple[int, int], ...]

_REMEDY: Final = (
    "leave training.assistant_turns at last, and write a row for each answer (each row ends with it)"
)


class Tokens(NamedTuple):
    """The tokens of a conversation: those before `start` are the first question's, those in `taught` carry loss.

    `moved` says that the template alone would have ended the question otherwise; `text` is that of one answer.
    """

    ids: list[int]
    start: int
    taught: Spans
    moved: bool = False
    text: Taught | None = None


def tokens_of(chat: Chat, pair: Pair, encode: Encode) -> Tokens:
    """Return what a pair of messages teaches. Raises TemplateError."""
    assert isinstance(pair.prompt, list)
    assert isinstance(pair.completion, list)
    taught = [message["role"] == "assistant" and message.get("weight") != 0 for message in pair.completion]
    said = [{key: value for key, value in message.items() if key != "weight"} for message in pair.completion]
    if len(said) > 1:
        return _several(chat, pair, said, taught, encode)
    text = chat.taught(pair.prompt, said, pair.tools)
    ids, start, moved = text.ids(encode)
    return Tokens(ids, start, ((start, len(ids)),) if taught[0] else (), moved, text)


def supervised(ids: Sequence[int], taught: Spans, end: int) -> list[int]:
    """Return the tokens that carry loss once a row is cut at `end`."""
    return [token for start, stop in taught for token in ids[start : min(stop, end)]]


def _several(
    chat: Chat, pair: Pair, said: Sequence[Message], taught: Sequence[bool], encode: Encode
) -> Tokens:
    messages, first = [*pair.prompt, *said], len(pair.prompt)
    whole = chat.finished(messages, pair.tools) + chat.ending
    cuts: list[tuple[int, int]] = []
    for at in (first + number for number, wanted in enumerate(taught) if wanted):
        asked = chat.asked(messages[:at], pair.tools)
        ended = chat.finished(messages[: at + 1], pair.tools)
        if at + 1 < len(messages):
            ended = ended.removesuffix(chat.last_words)
        if not (whole.startswith(ended) and ended.startswith(asked)):
            raise TemplateError(
                f"the chat template writes answer {len(cuts) + 1} otherwise once the conversation goes on: with "
                f"assistant_turns: all another text would be taught than is asked\n  {_REMEDY}"
            )
        end = len(ended)
        if chat.ending:  # the next turn, whoever's it is, is opened by what ends this one
            end += len(chat.token_at(whole[end:]))
        cuts.append((len(asked), end))
    return _in_tokens(whole, cuts, encode)


def _in_tokens(whole: str, cuts: Sequence[tuple[int, int]], encode: Encode) -> Tokens:
    """Find the cuts of a text in its tokens: each question has the tokens that it has when it is asked alone."""
    ids, spans = encode(whole), []
    for start, end in cuts:
        asked, ended = encode(whole[:start]), encode(whole[:end])
        if ids[: len(asked)] != asked or ids[: len(ended)] != ended:
            return _in_pieces(whole, cuts, encode)
        spans.append((len(asked), len(ended)))
    return Tokens(ids, spans[0][0], tuple(spans))


def _in_pieces(whole: str, cuts: Sequence[tuple[int, int]], encode: Encode) -> Tokens:
    """Do the same with each answer in tokens of its own, where the tokenizer joins it to what stands around it."""
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    for start, end in cuts:
        asked = encode(whole[:start])
        if asked[: len(ids)] != ids:
            raise TemplateError(
                f"the tokenizer joins answer {len(spans)} to the question after it: with assistant_turns: all other "
                f"tokens would be taught than are asked\n  {_REMEDY}"
            )
        ids = [*asked, *encode(whole[start:end])]
        spans.append((len(asked), len(ids)))
    return Tokens([*ids, *encode(whole[cuts[-1][1] :])], spans[0][0], tuple(spans), moved=True)
