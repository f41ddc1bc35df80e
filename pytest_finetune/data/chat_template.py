"""Render a chat template as transformers does, without transformers: the same sandbox, the same functions.

Today's date is never written: a template that asks for it gets `CLOCK`, so that two arms asked on two days, and the
rows that are trained on, are given one text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Final, Protocol

from pytest_finetune.data.formatting import Message
from pytest_finetune.errors import FinetuneError
from pytest_finetune.yamlfile import Json

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.ext import Extension
    from jinja2.parser import Parser

CLOCK: Final = datetime(2024, 7, 26, tzinfo=UTC)
"""The date for templates that write one; Llama's own templates write it where they find no clock."""

_REASONING: Final = ("reasoning_content", "thinking", "reasoning")


class TemplateError(FinetuneError, ValueError):
    """The chat template is missing, refuses these messages or is broken."""


class Render(Protocol):
    """Turns messages into text; `open_turn` opens the assistant's turn at the end."""

    def __call__(self, messages: Sequence[Message], tools: Sequence[Json], open_turn: bool) -> str:
        """Raises TemplateError, with the template's own sentence where it refuses the messages."""
        ...


def renderer(
    template: str | None,
    special: Mapping[str, str],
    arguments: Json | None = None,
    clock: datetime = CLOCK,
) -> Render:
    """Return what renders messages with a template.

    `special` names the tokenizer's special tokens (``bos_token`` and so on), which templates may use; `arguments` are
    the template's own, such as ``enable_thinking``.
    """
    if template is None:
        return _no_template
    from jinja2 import TemplateError as JinjaError

    try:
        compiled = _compiled(template)
    except JinjaError as error:
        raise TemplateError(f"the chat template does not compile: {error}") from None

    def render(messages: Sequence[Message], tools: Sequence[Json], open_turn: bool) -> str:
        given = {"strftime_now": clock.strftime, **special, **(arguments or {})}
        try:
            return compiled.render(
                messages=[_as_transformers(message) for message in messages],
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=open_turn,
                **given,
            )
        except (JinjaError, TypeError, ValueError, LookupError) as error:
            if isinstance(error, TemplateError):
                raise
            raise TemplateError(f"the chat template cannot write these messages: {error}") from None

    return render


@cache
def _compiled(template: str) -> Template:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation_blocks()]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def _as_transformers(message: Message) -> Message:
    """Leave out keys without a value, and give a thought all the names that templates know it by."""
    # No content is content for a template: some see the calls of a message only where there is none.
    given = {name: value for name, value in message.items() if value is not None or name == "content"}
    thought = next((given[name] for name in _REASONING if name in given), None)
    return given if thought is None else {"thinking": thought, **given, "reasoning_content": thought}


def _no_template(messages: Sequence[Message], tools: Sequence[Json], open_turn: bool) -> str:
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
    raise TemplateError(f"the chat template refuses these messages: {message}")
