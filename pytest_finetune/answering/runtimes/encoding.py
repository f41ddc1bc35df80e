"""What a model reads of a prompt: the text that its chat template makes of it, and the tokens of that text."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_finetune.answering.prompts import Prompted, Rendered
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.data.chat_template import TemplateError
from pytest_finetune.fingerprint import canonical_json
from pytest_finetune.training.chat import tokenizer_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pytest_finetune.data.chat import Chat
    from pytest_finetune.yamlfile import Json


class Encoded(NamedTuple):
    """A prompt ready for the model: its position among the prompts, the exact text, its token ids."""

    at: int
    asked: Prompted
    text: str
    ids: list[int]


class Encoder:
    """A base's tokenizer with its chat template; `name` is how a message names the base."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self._tokenizer = tokenizer
        self._name = name
        self._chats: dict[bytes, Chat] = {}

    def encoded(self, asked: Prompted, at: int = 0) -> Encoded:
        """Return the prompt as the model reads it. Raises AnsweringError."""
        tokenizer = self._tokenizer
        if isinstance(asked.prompt, str):
            special = not isinstance(asked.prompt, Rendered)
            ids = tokenizer(text=asked.prompt, add_special_tokens=special)["input_ids"]
            return Encoded(at, asked, asked.prompt, ids)
        if not tokenizer.chat_template:
            raise AnsweringError(
                f"{asked.id}: the prompt is a chat, but the tokenizer of {self._name!r} has no chat "
                "template\n"
                "  write prompt.template with {instruction} and {input}, or take an instruct model"
            )
        try:
            text = self.chat(asked.arguments).asked(asked.prompt, asked.tools)
        except TemplateError as error:
            raise AnsweringError(f"{asked.id} (line {asked.line}): {error}") from None
        # The template writes the special tokens itself.
        return Encoded(at, asked, text, tokenizer(text=text, add_special_tokens=False)["input_ids"])

    def chat(self, arguments: Json) -> Chat:
        """Return the chat template with these arguments."""
        key = canonical_json(arguments)
        if key not in self._chats:
            self._chats[key] = tokenizer_chat(self._tokenizer, arguments)
        return self._chats[key]
