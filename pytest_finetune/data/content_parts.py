"""Hand texts to a chat template in the form that it reads: a text, or (Idefics, LLaVA) nothing but a list of parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pytest_finetune.data.chat_template import Render, TemplateError

if TYPE_CHECKING:
    from pytest_finetune.data.formatting import Message
    from pytest_finetune.yamlfile import Json

_SAID: Final = ("the0sentinel1question", "the0sentinel1answer")
_PROBE: Final = ({"role": "user", "content": _SAID[0]}, {"role": "assistant", "content": _SAID[1]})


def in_its_form(render: Render) -> Render:
    """Return what renders with the same template, each text in one part where the template writes no other."""

    def render_parts(messages: Sequence[Message], tools: Sequence[Json], open_turn: bool) -> str:
        return render([_in_parts(message) for message in messages], tools, open_turn)

    return render_parts if not _writes(render) and _writes(render_parts) else render


def _writes(render: Render) -> bool:
    """Tell whether a question and its answer stand in what is rendered."""
    try:
        text = render(_PROBE, (), False)
    except TemplateError:
        return False
    return all(said in text for said in _SAID)


def _in_parts(message: Message) -> Message:
    content = message.get("content")
    if not isinstance(content, str):
        return message
    return {**message, "content": [{"type": "text", "text": content}]}
