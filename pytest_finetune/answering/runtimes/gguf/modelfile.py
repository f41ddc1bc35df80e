"""A Modelfile, in which Ollama is told how to serve a GGUF: its template, its ends, its context and its decoding.

Left to itself, Ollama takes for the template of a GGUF the nearest of those that it knows, cuts prompts without a word
at its own context length and penalises repetitions. So all of it is written down. Its templates are Go's: one is made
of a chat template wherever that writes the same between two turns whatever they hold, and is proved on conversations.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes.gguf.products import ADAPTER_FILE, FILE
from pytest_finetune.answering.runtimes.server.neutral import as_modelfile
from pytest_finetune.data.chat_template import TemplateError
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.experiment import Generation

Render = Callable[[Sequence[JsonTree]], str]
"""Makes messages the text that the model reads, up to where its answer begins."""

PLAIN: Final = "{{ .Prompt }}"
"""The template of prompts that are text already."""
_DEFAULT_CONTEXT: Final = 4096
_STEP: Final = 256
_SYSTEM, _USER, _ASSISTANT = "system", "user", "assistant"
_LEARNED: Final = ((_USER,), (_SYSTEM, _USER), (_USER, _ASSISTANT, _USER))
"""Conversations of which the texts between turns are taken, the first of them alone if need be."""
_PROVED: Final = ((_SYSTEM, _USER, _ASSISTANT, _USER), (_USER, _ASSISTANT, _USER, _ASSISTANT, _USER))

Between = Mapping[tuple[str, str], str]
"""What stands before a turn, by the role before it and its own; "" is the beginning, and the end."""


@dataclass(frozen=True, slots=True)
class Modelfile:
    """How Ollama serves one GGUF; `template` None leaves the choice to Ollama. `context` counts tokens.

    `adapter` is a GGUF that is added to the model.
    """

    gguf: str
    adapter: str | None
    template: str | None
    stops: tuple[str, ...]
    context: int
    generation: Generation

    @property
    def text(self) -> str:
        """The file."""
        lines = [f"FROM {self.gguf}"]
        if self.adapter is not None:
            lines.append(f"ADAPTER {self.adapter}")
        if self.template is not None:
            lines.append(f'TEMPLATE """{self.template}"""')
        parameters: JsonTree = {"num_ctx": self.context, **as_modelfile(self.generation)}
        lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
        lines += [f"PARAMETER stop {_quoted(stop)}" for stop in self.stops]
        return "\n".join(lines) + "\n"

    @property
    def shipped(self) -> str:
        """The file as it stands beside the GGUF files that it names."""
        adapter = ADAPTER_FILE if self.adapter is not None else None
        return replace(self, gguf=f"./{FILE}", adapter=adapter and f"./{adapter}").text


def context_for(longest: int, new: int) -> int:
    """Return how many tokens the context must have so that no prompt is cut.

    >>> context_for(300, 64), context_for(5000, 64)
    (4096, 5120)
    """
    return max(_DEFAULT_CONTEXT, -(-(longest + new + 1) // _STEP) * _STEP)


def go_template(render: Render, start: str = "") -> str | None:
    """Return a chat template in Go's words; None where what it writes hangs on more than the roles of the turns.

    `start` is the text of a begin token that the server adds by itself: it is left out at the beginning.
    """
    between = _between(render)
    if between is None:
        return None
    for roles in _PROVED:
        known = set(itertools.pairwise(("", *roles, ""))) <= between.keys()
        if known and not _holds(render, roles, between):
            return None
    branches = [
        f'(and (eq $before "{before}") (eq .Role "{role}"))' + "}}" + _literal(_begun(text, before, start))
        for (before, role), text in between.items()
        if role
    ]
    chosen = "{{ if " + "{{ else if ".join(branches) + "{{ end }}"
    end = _literal(between[_USER, ""])
    return (
        '{{ $before := "" }}{{ range .Messages }}'
        + chosen
        + "{{ .Content }}{{ $before = .Role }}{{ end }}"
        + end
    )


def _between(render: Render) -> Between | None:
    """Learn what a template writes between turns; None where two conversations disagree on it."""
    found: dict[tuple[str, str], str] = {}
    for number, roles in enumerate(_LEARNED):
        try:
            parts = _parts(render, roles)
        except TemplateError:
            if number == 0:
                return None
            continue  # it refuses system messages, say, and then none are asked of it
        if parts is None:
            return None
        for pair, text in zip(itertools.pairwise(("", *roles, "")), parts, strict=True):
            if found.setdefault(pair, text) != text:
                return None
    return found


def _parts(render: Render, roles: Sequence[str]) -> list[str] | None:
    """Return what stands around the contents of a conversation; None unless each stands there once, in its order."""
    contents = [f"Content{number}of{role}" for number, role in enumerate(roles)]
    rest = render([{"role": role, "content": said} for role, said in zip(roles, contents, strict=True)])
    parts = []
    for said in contents:
        before, found, rest = rest.partition(said)
        if not found or said in rest:
            return None
        parts.append(before)
    return [*parts, rest]


def _holds(render: Render, roles: Sequence[str], between: Between) -> bool:
    """Tell whether a longer conversation is written by the same texts."""
    try:
        parts = _parts(render, roles)
    except TemplateError:
        return True
    return parts == [between[pair] for pair in itertools.pairwise(("", *roles, ""))]


def _begun(text: str, before: str, start: str) -> str:
    return text.removeprefix(start) if not before and start else text


def _literal(text: str) -> str:
    """Write text as a quoted word of Go: as it stands, Go's own marks in it would be read."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""


def _quoted(stop: str) -> str:
    return f'"""{stop}"""' if '"' in stop else f'"{stop}"'
