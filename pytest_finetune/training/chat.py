"""The chat template of a loaded tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_finetune.data.chat import Chat
from pytest_finetune.data.chat_template import TemplateError
from pytest_finetune.yamlfile import Json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenizer_chat(tokenizer: PreTrainedTokenizerBase, arguments: Json) -> Chat:
    """Return the tokenizer's chat template; one that is written in code is asked by its own method."""
    template = tokenizer.chat_template
    templates = dict(template) if isinstance(template, Mapping) else {"default": template} if template else {}
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    special = sorted({*map(str, tokenizer.all_special_tokens), *added})
    if _in_code(tokenizer):
        return Chat(_own(tokenizer, arguments), "\n".join(templates.values()), special)
    named = {
        name: str(text) for name, text in tokenizer.special_tokens_map.items() if not isinstance(text, list)
    }
    return Chat.of(templates, named, special, arguments)


def _in_code(tokenizer: PreTrainedTokenizerBase) -> bool:
    from transformers import PreTrainedTokenizerBase

    own = getattr(type(tokenizer), "apply_chat_template", None)
    return own is not PreTrainedTokenizerBase.apply_chat_template


def _own(tokenizer: PreTrainedTokenizerBase, arguments: Json) -> Any:
    def render(messages: Sequence[Json], tools: Sequence[Json], open_turn: bool) -> str:
        try:
            return str(
                tokenizer.apply_chat_template(
                    list(messages),
                    tools=list(tools) or None,
                    tokenize=False,
                    add_generation_prompt=open_turn,
                    **arguments,
                )
            )
        except Exception as error:  # code of the tokenizer's repository: it may raise anything
            raise TemplateError(f"the chat template refuses these messages: {error}") from error

    return render
