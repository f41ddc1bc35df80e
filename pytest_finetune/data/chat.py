"""How a base's chat template writes a conversation: as a question, and as a question that an answer follows.

Training and asking both go through `Chat`, so what is trained begins with exactly what is asked. A template may write
more between the two than the prompt that it opens the turn with (an empty block of thinking, a channel's name), or
open in the prompt what a finished answer does not show; `Chat.taught` says what is trained then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.data.call_spelling import Spelling, spelling_of
from pytest_finetune.data.chat_template import CLOCK, Render, TemplateError, renderer
from pytest_finetune.data.content_parts import in_its_form
from pytest_finetune.data.formatting import CHAT
from pytest_finetune.data.thinking import Reading, find_marks, opened_at_the_end
from pytest_finetune.data.tokenizer_files import chat_templates, read_tree, tokenizer_config
from pytest_finetune.fingerprint import BaseModelError, base_folder
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_finetune.data.formatting import Message
    from pytest_finetune.experiment import Experiment

_SENTINEL: Final = "the0sentinel1answer2"
_SAMPLE: Final = ({"role": "user", "content": "Hello"},)
_ANOTHER_DAY: Final = datetime(2001, 2, 3, tzinfo=UTC)
_SPECIAL: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Taught(NamedTuple):
    """One conversation as it is trained: `whole` begins with `asked`, the text of its question.

    `moved` says that the template alone would have written the end of the question otherwise.
    """

    asked: str
    whole: str
    moved: bool = False

    def ids(self, encode: Callable[[str], list[int]]) -> tuple[list[int], int, bool]:
        """Return the tokens, how many of them are the question's, and whether the template alone gives others.

        They begin with the tokens of the question asked alone, also where the tokenizer would join both.
        """
        asked, whole = encode(self.asked), encode(self.whole)
        kept = whole[: len(asked)] == asked
        ids = whole if kept else [*asked, *encode(self.whole[len(self.asked) :])]
        return ids, len(asked), self.moved or not kept


class Chat:
    """A chat template with its arguments; `special` are the texts of the tokenizer's special tokens."""

    def __init__(
        self,
        render: Render,
        template: str,
        special: Sequence[str] = (),
        another_day: Callable[[], Render] | None = None,
    ) -> None:
        """`another_day` makes what renders with another date than `render` does."""
        self._render = render
        self._template = template
        self._special = tuple(sorted(set(special)))
        self._another_day = another_day

    @classmethod
    def of(
        cls, templates: Mapping[str, str], named: Mapping[str, str], special: Sequence[str], arguments: Json
    ) -> Chat:
        """Make it of templates by name: ``default``, and perhaps ``tool_use`` for conversations with tools."""
        return cls(
            _choosing(templates, named, arguments),
            "\n".join(templates.values()),
            special,
            lambda: _choosing(templates, named, arguments, clock=_ANOTHER_DAY),
        )

    @property
    def known(self) -> bool:
        """Whether there is a template at all."""
        return bool(self._template)

    @property
    def special(self) -> tuple[str, ...]:
        """The texts of the tokenizer's special tokens."""
        return self._special

    def asked(self, messages: Sequence[Message], tools: Sequence[Json] = ()) -> str:
        """Return the text of a question, the assistant's turn opened. Raises TemplateError."""
        return self._text(messages, tools, open_turn=True)

    def finished(self, messages: Sequence[Message], tools: Sequence[Json] = ()) -> str:
        """Return the text of a conversation, no turn opened after it. Raises TemplateError."""
        return self._text(messages, tools, open_turn=False)

    @cached_property
    def last_words(self) -> str:
        """What the template writes only where a conversation ends."""
        try:
            closed, asked = self._render(_SAMPLE, (), False), self._render(_SAMPLE, (), True)
        except TemplateError:
            return ""
        return closed[_shared(closed, asked) :]

    @cached_property
    def spelling(self) -> Spelling:
        """How the template is handed calls of tools."""
        return spelling_of(self._render)

    @property
    def call_tokens(self) -> tuple[str, ...]:
        """The special tokens that the template writes around a call."""
        return tuple(token for token in self._special if token in self.spelling.text)

    def _text(self, messages: Sequence[Message], tools: Sequence[Json], *, open_turn: bool) -> str:
        calling = any(message.get("tool_calls") for message in messages)
        return self._render(self.spelling.spelt(messages) if calling else messages, tools, open_turn)

    def taught(
        self, messages: Sequence[Message], answer: Sequence[Message], tools: Sequence[Json] = ()
    ) -> Taught:
        """Return the text of a question with its answer. Raises TemplateError."""
        asked = self.asked(messages, tools)
        whole = self.finished([*messages, *answer], tools) + self.ending
        if whole.startswith(asked):
            return Taught(asked, whole)
        # The turn is opened otherwise than a finished one begins: what was asked stays, and the answer follows it.
        bare = self.finished([*messages, {"role": "assistant", "content": _SENTINEL}], tools)
        lead, found, _ = bare.rpartition(_SENTINEL)
        if not found:
            raise TemplateError("the chat template leaves out the answer")
        start = _shared(lead, whole)
        thought = str(answer[0].get("reasoning_content") or "").strip()
        closing = self.reading.closing(asked, lead, "" if thought in whole[start:] else thought)
        return Taught(asked, asked + closing + whole[start:], moved=True)

    def answer_in(self, taught: Taught) -> str:
        """Return the answer that would be read if a model wrote what is taught."""
        said = taught.whole[len(taught.asked) :]
        if self._tail:
            said = said.rpartition(self._tail)[0] or said
        said = self.without_special(said, self.reading.special)
        return self.reading.read(said, taught.asked).answer

    def without_special(self, text: str, shown: Sequence[str] = ()) -> str:
        """Return a text as it is decoded: without special tokens but those in `shown`."""
        for token in self._special:
            text = text if token in shown else text.replace(token, "")
        return text

    @cached_property
    def reading(self) -> Reading:
        """How the answer is found in what a model writes after a question."""
        marks = find_marks(self._template, self._special)
        try:
            closed = self._render(_SAMPLE, (), False)
            asked = self._render(_SAMPLE, (), True)
            whole = self._render([*_SAMPLE, {"role": "assistant", "content": _SENTINEL}], (), False)
        except TemplateError:
            return Reading.knowing(self._special, marks)
        marks = tuple(dict.fromkeys((*marks, *opened_at_the_end(asked))))
        lead, found, _ = whole.rpartition(_SENTINEL)
        header = lead.removeprefix(asked) if found and lead.startswith(asked) else ""
        ends = [at for at in map(self._tail.find, self._special) if at >= 0]
        return Reading.knowing(
            self._special,
            marks,
            turn=asked[len(closed) :] if asked.startswith(closed) else "",
            header=Reading(marks).read(header, asked).answer,
            footer=self._tail[: min(ends, default=0)],
        )

    @cached_property
    def _tail(self) -> str:
        """What the template writes after an answer."""
        try:
            whole = self._render([*_SAMPLE, {"role": "assistant", "content": _SENTINEL}], (), False)
        except TemplateError:
            return ""
        return whole.rpartition(_SENTINEL)[2] if _SENTINEL in whole else ""

    @cached_property
    def ending(self) -> str:
        """The token that opens the next turn, where nothing else stands after an answer (GLM): it ends it."""
        if self._tail:
            return ""
        try:
            whole = self._render([*_SAMPLE, {"role": "assistant", "content": _SENTINEL}, *_SAMPLE], (), False)
        except TemplateError:
            return ""
        return self.token_at(whole.partition(_SENTINEL)[2])

    def token_at(self, text: str) -> str:
        """Return the special token that a text begins with, none where it begins with another text."""
        return next((token for token in self._special if text.startswith(token)), "")

    @property
    def facts(self) -> JsonTree:
        """What an answer depends on besides messages and model, where it is not the answer alone that is written."""
        reading = {} if self.reading.plain else {"reading": self.reading.facts()}
        return {**reading, **self.date}

    @property
    def date(self) -> JsonTree:
        """The date that the template is given, where it writes one."""
        return {"date": CLOCK.date().isoformat()} if self.dated else {}

    @property
    def switch(self) -> str | None:
        """The argument that turns thinking off, where the template reads it."""
        return "{enable_thinking: false}" if "enable_thinking" in self._template else None

    def reads(self, name: str) -> bool:
        """Tell whether the template can read an argument: it stands in its text."""
        return name in self._template

    @cached_property
    def dated(self) -> bool:
        """Whether the template writes the date of the day."""
        if self._another_day is None:
            return False
        try:
            return self._render(_SAMPLE, (), True) != self._another_day()(_SAMPLE, (), True)
        except TemplateError:
            return "strftime_now" in self._template


def chat_of(experiment: Experiment) -> Chat | None:
    """Return the chat template of an experiment's base; None where it asks with text, or the base is not here."""
    if experiment.prompt.template != CHAT:
        return None
    try:
        folder = base_folder(experiment)
    except BaseModelError:
        return None
    found = folder_chat(folder, experiment.prompt.chat_template_kwargs)
    return found if found.known else None


def folder_chat(folder: Path, arguments: Json, added: Sequence[str] | None = None) -> Chat:
    """Return the chat template of a model's folder, read without transformers.

    `added` are the special tokens that a tokenizer has added, where it is loaded already: its file is large.
    """
    config = tokenizer_config(folder)
    named = {name: text for name in _SPECIAL if (text := token_text(config.get(name))) is not None}
    special = sorted({*named.values(), *(_added(folder) if added is None else added)})
    return Chat.of(chat_templates(folder, config), named, special, arguments)


def token_text(token: object) -> str | None:
    """Return a special token's text: written as a text, or as an object with `content`."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _choosing(
    templates: Mapping[str, str], named: Mapping[str, str], arguments: Json, **clock: datetime
) -> Render:
    renders = {
        name: in_its_form(renderer(text, named, arguments, **clock)) for name, text in templates.items()
    }
    default = renders.get("default") or renderer(None, named)
    with_tools = renders.get("tool_use", default)

    def render(messages: Sequence[Message], tools: Sequence[Json], open_turn: bool) -> str:
        return (with_tools if tools else default)(messages, tools, open_turn)

    return render


def _added(folder: Path) -> list[str]:
    added = read_tree(folder / "tokenizer.json").get("added_tokens") or ()
    return [one["content"] for one in added if one.get("special")]


def _shared(left: str, right: str) -> int:
    """Return the length of the common beginning."""
    pairs = zip(left, right, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
