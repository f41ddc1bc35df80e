"""Render a chat template as transformers does, without transformers: the same sandbox, the same functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from pytest_finetune.data.formatting import Message
from pytest_finetune.errors import FinetuneError

if TYPE_CHECKING:
    from jinja2.ext import Extension
    from jinja2.parser import Parser


class TemplateError(FinetuneError, ValueError):
    """The chat template is missing, refuses these messages or is broken."""


def renderer(template: str | None, special: Mapping[str, str]) -> Callable[[list[Message], bool], str]:
    """Return a function of messages and of whether the assistant's turn is to be opened.

    `special` names the tokenizer's special tokens (``bos_token`` and so on), which templates may use.
    """
    if template is None:
        return _no_template
    from jinja2 import TemplateError as JinjaError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation_blocks()]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    try:
        compiled = environment.from_string(template)
    except JinjaError as error:
        raise TemplateError(f"the chat template does not compile: {error}") from None

    def render(messages: list[Message], open_turn: bool) -> str:
        try:
            return compiled.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=open_turn, **special
            )
        except JinjaError as error:
            raise TemplateError(f"the chat template refuses these messages: {error}") from None

    return render


def _no_template(messages: list[Message], open_turn: bool) -> str:
    raise TemplateError("the tokenizer has no chat template: write prompt.template as text")


def _generation_blocks() -> type[Extension]:
    """Return the extension that knows ``{% generation %}``: where the assistant speaks; no text."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class GenerationBlocks(Extension):
        tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return GenerationBlocks


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes <, >, & and ' for HTML, which a prompt must not.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise TemplateError(message)
