"""The command that starts a server: what it leaves to be filled in, and what contradicts itself in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

PLACEHOLDERS: Final = ("model", "base", "adapter", "host", "port")
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_NAMED_ADAPTER: Final = re.compile(r"(?:--[\w-]+=)?([^={}]+)=\{adapter\}")
_VLLM_RANK: Final = 16
"""The highest rank that vLLM takes unless ``--max-lora-rank`` says more."""
_VLLM_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)


def words_of(command: str | Sequence[str]) -> Sequence[str]:
    """Split a command; one that cannot be split stays one word, and `command_mistakes` says why."""
    if not isinstance(command, str):
        return command
    try:
        return shlex.split(command)
    except ValueError:
        return (command,)


def mentions(command: Sequence[str], placeholder: str) -> bool:
    """Tell whether a command leaves this to be filled in."""
    return any(f"{{{placeholder}}}" in word for word in command)


def filled(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return the command's words with their placeholders replaced, each once."""
    return [_PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), word) for word in command]


def without_adapter(command: Sequence[str]) -> tuple[str, ...]:
    """Return the command that serves the base alone: what names the adapter is left out, with the option before it.

    >>> without_adapter(("vllm", "serve", "{base}", "--lora-modules", "tuned={adapter}", "--port", "{port}"))
    ('vllm', 'serve', '{base}', '--port', '{port}')
    """
    kept: list[str] = []
    for word in command:
        if "{adapter}" not in word:
            kept.append(word)
        elif not word.startswith("-") and kept and kept[-1].startswith("-") and "=" not in kept[-1]:
            kept.pop()
    return tuple(kept)


def command_mistakes(command: str | Sequence[str], model: str | None) -> Iterator[str]:
    """Yield what is wrong with a command; `model` is the name under which its server is asked for the tuned model."""
    try:
        words = shlex.split(command) if isinstance(command, str) else list(command)
    except ValueError as error:
        yield f"found {command!r}, which cannot be split into words: {error}"
        return
    if not words:
        yield "found no word: write the command that starts the server"
        return
    named = [name for word in words for name in _PLACEHOLDER.findall(word)]
    unknown = [name for name in named if name not in PLACEHOLDERS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        yield f"unknown placeholder {{{unknown[0]}}}; known: {known}"
    if "port" not in named:
        yield "has no {port}: the server is asked on a free port that is chosen when it starts"
    yield from _adapter_mistakes(words, named, model)


def _adapter_mistakes(words: Sequence[str], named: Sequence[str], model: str | None) -> Iterator[str]:
    if "adapter" not in named:
        if "base" in named:
            yield (
                "names {base} and no {adapter}: the tuned model would not be there; add "
                "--enable-lora --lora-modules tuned={adapter} (vLLM), or take {model}, the merged model, for {base}"
            )
        return
    if "model" in named:
        yield (
            "names both {model} and {adapter}: {model} is the merged model, with the adapter in it already; "
            "write {base} for {model}"
        )
    elif "base" not in named:
        yield "names {adapter} and no {base}: the adapter is served on the base that it was trained on; write {base}"
    if model is None:
        yield (
            "names {adapter}, and a server knows an adapter by its name: write model, the name that the command gives "
            "it (tuned={adapter} and model: tuned)"
        )
        return
    for word in words:
        given = _NAMED_ADAPTER.fullmatch(word)
        if given is not None and given[1] != model:
            yield f"gives the adapter the name {given[1]!r}, and model is {model!r}: write the same in both"


def untaken(command: Sequence[str], method: str, rank: int) -> Iterator[str]:
    """Yield why a server that is started with the adapter will not take one that is trained by this method."""
    if not mentions(command, "adapter"):
        return
    if method == "full":
        yield "names {adapter}, and peft_method: full trains a whole model: write {model} for {base}, no {adapter}"
        return
    if not any(Path(word).name == "vllm" for word in command[:3]):
        return
    if method == "dora":
        yield "vLLM takes no DoRA adapter: serve the merged model, {model}, or train with peft_method: lora"
    if rank > _highest_rank(command):
        enough = next((one for one in _VLLM_RANKS if one >= rank), None)
        change = f"add --max-lora-rank {enough}" if enough else "serve the merged model, {model}"
        yield f"vLLM takes adapters of rank {_highest_rank(command)} at most here, and lora.r is {rank}: {change}"


def _highest_rank(command: Sequence[str]) -> int:
    text = " ".join(command)
    found = re.search(r"--max[-_]lora[-_]rank[ =](\d+)", text)
    return int(found[1]) if found else _VLLM_RANK
