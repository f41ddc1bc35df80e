"""What servers tell of the prompts that they make, each by the pages that it has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from pytest_finetune.answering.runtimes.server import decoding, tool_calls
from pytest_finetune.answering.runtimes.server.http import Wire, WireError
from pytest_finetune.answering.runtimes.server.rendering import Written
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pytest_finetune.answering.prompts import Prompted

_SURE: Final = 1e6
"""Added to a token's logit, it makes that token the next one."""
_WRITTEN_BY: Final = (
    *("add_special_tokens", "add_generation_prompt", "continue_final_message"),
    *("chat_template", "chat_template_kwargs"),
)
"""What vLLM's questions and its /tokenize both know of how a prompt is written."""


class Question(NamedTuple):
    """Where a prompt is sent, and what the request says of it besides model and decoding."""

    path: str
    said: JsonTree

    @property
    def chat(self) -> bool:
        """Whether the server makes the text of messages."""
        return "messages" in self.said


def question(prompted: Prompted, api: str | None) -> Question:
    """Return how a prompt is asked: messages go to chat and text to completions, unless `api` says otherwise."""
    prompt = prompted.prompt
    if api == "completions" or (api is None and isinstance(prompt, str)):
        return Question("/v1/completions", {"prompt": prompt})
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    said = tool_calls.offered(messages, prompted.tools)
    if prompted.arguments:
        said["chat_template_kwargs"] = dict(prompted.arguments)
    return Question("/v1/chat/completions", said)


class Speaker(Protocol):
    """A server that shows what it makes of a question."""

    def written(self, asked: Question) -> Written:
        """Return the prompt that the model would read. Raises WireError."""
        ...

    def stops_at(self, token: int) -> bool | None:
        """Tell whether an answer ends at a token; None where the server does not show it. Raises WireError."""
        ...

    def stop_words(self) -> Sequence[str]:
        """Return the texts at which the server ends every answer, as far as it tells them. Raises WireError."""
        ...


class LlamaServer:
    """llama.cpp's server, which renders and splits a prompt on request, as it would before it answers.

    `extra` is what each question holds besides.
    """

    def __init__(self, wire: Wire, extra: Json) -> None:
        self._wire = wire
        self._extra = extra

    def written(self, asked: Question) -> Written:
        """Return the prompt that the model would read. Raises WireError."""
        said = {**self._extra, **asked.said}
        told = self._wire.post("/apply-template", said) if asked.chat else said
        text = _of(told, "prompt", str)
        # As its completions do it: the begin token is added, for the rendering has left it out.
        given = {"content": text, "add_special": True, "parse_special": True}
        return Written(_of(self._wire.post("/tokenize", given), "tokens", list), text)

    def stops_at(self, token: int) -> bool:
        """Make the model say a token and see whether its answer ends there. Raises WireError."""
        body = {
            "prompt": "a",
            "n_predict": 1,
            "temperature": 0,
            "logit_bias": [[token, _SURE]],
            "cache_prompt": False,
        }
        found: str = _of(self._wire.post("/completion", body), "stop_type", str)
        return found == "eos"

    def stop_words(self) -> Sequence[str]:
        """Return those that it was started with, which each answer tells of. Raises WireError."""
        found = self._wire.post("/completion", {"prompt": "a", "n_predict": 1, "cache_prompt": False})
        settings = found.get("generation_settings") if isinstance(found, Mapping) else None
        return [str(word) for word in (settings or {}).get("stop") or ()]

    def next_tokens(self, tokens: Sequence[int], most: int) -> dict[int, float]:
        """Return the likeliest tokens after these, at most so many, with their log probabilities. Raises WireError.

        None where the next token is the first part of a character: the server keeps it back.
        """
        body = {"prompt": list(tokens), "n_predict": 1, "temperature": 0, "n_probs": most, "ignore_eos": True}
        found = self._wire.post("/completion", body)
        told = [
            one
            for place in found.get("completion_probabilities", ())
            for one in _of(place, "top_logprobs", list)
        ]
        return {one["id"]: one["logprob"] for one in told}


class Vllm:
    """vLLM, which splits messages and texts on request; it is told the tokens that end an answer with each question.

    Of `extra`, which each question holds besides, it is told what it would write the prompt by.
    """

    def __init__(self, wire: Wire, model: str, extra: Json) -> None:
        self._wire = wire
        self._given = {"model": model, **{name: extra[name] for name in _WRITTEN_BY if name in extra}}

    def written(self, asked: Question) -> Written:
        """Return the prompt that the model would read. Raises WireError."""
        return Written(_of(self._wire.post("/tokenize", {**self._given, **asked.said}), "tokens", list))

    def stops_at(self, token: int) -> None:
        """Tell nothing: each question says where its answer ends."""

    def stop_words(self) -> Sequence[str]:
        """Return none: it tells of none."""
        return ()


class Ollama:
    """Ollama, which shows the text that its template makes, from the release on that knows `_debug_render_only`.

    It does not show how it splits that text, only how many tokens it has read once it has answered.
    """

    def __init__(self, wire: Wire, model: str) -> None:
        self._wire = wire
        # An older one would answer, then with one token.
        self._given = {
            "model": model,
            "stream": False,
            "_debug_render_only": True,
            "options": {"num_predict": 1},
        }

    def shows(self) -> bool:
        """Tell whether this release shows what it makes of a prompt."""
        try:
            self.written(Question("", {"prompt": "a"}))
        except WireError:
            return False
        return True

    def written(self, asked: Question) -> Written:
        """Return the prompt that the model would read. Raises WireError."""
        page = "/api/chat" if asked.chat else "/api/generate"
        told = _of(self._wire.post(page, {**self._given, **asked.said}), "_debug_info", Mapping)
        return Written((), _of(told, "rendered_template", str))

    def stops_at(self, token: int) -> None:
        """Tell nothing: what ends an answer, it shows for no single token."""

    def stop_words(self) -> Sequence[str]:
        """Return those of the model's Modelfile, or of the template that Ollama has chosen. Raises WireError."""
        told = self._wire.post("/api/show", {"model": self._given["model"]})
        lines = str(told.get("parameters") or "").splitlines() if isinstance(told, Mapping) else []
        pairs = [line.split(maxsplit=1) for line in lines]
        return [_unquoted(pair[1].strip()) for pair in pairs if len(pair) == 2 and pair[0] == "stop"]


def speaker_of(kind: str, wire: Wire, model: str, extra: Json) -> Speaker | None:
    """Return how a server of this kind is asked what it makes of prompts; None for one that does not tell."""
    if kind == decoding.LLAMA:
        return LlamaServer(wire, extra)
    if kind == decoding.OLLAMA:
        ollama = Ollama(wire, model)
        return ollama if ollama.shows() else None
    return Vllm(wire, model, extra) if kind == decoding.VLLM else None


def _unquoted(word: str) -> str:
    try:
        return str(json.loads(word)) if word.startswith('"') else word
    except ValueError:
        return word


def _of(found: object, name: str, kind: type) -> Any:
    if not isinstance(found, Mapping) or not isinstance(found.get(name), kind):
        raise WireError(f"the answer has no {name!r}", again=False)
    return found[name]
