"""What a GGUF file says of itself in its header: its template, its tokenizer, how its tensors are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.yamlfile import JsonTree

TEMPLATE: Final = "tokenizer.chat_template"
_NAMED_TEMPLATE: Final = f"{TEMPLATE}."
_SAMPLING: Final = "general.sampling."
_LONG: Final = tuple(f"tokenizer.ggml.{part}" for part in ("tokens", "scores", "token_type", "merges"))
"""The vocabulary, whose texts nobody asks for."""
_ENDS: Final = tuple(f"tokenizer.ggml.{end}_token_id" for end in ("eos", "eot", "eom"))


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of a GGUF file.

    `templates` are its chat templates by name (``default``, perhaps ``tool_use``); `tokenizer` is the kind of its
    vocabulary and `pre` how it splits a text before that. `start` is the begin token and `ends` are the tokens that the
    file names as an end; a server may know others by their text. `tensors` counts tensors by how they are stored, and
    `sampling` is what the file wants a server to decode with.
    """

    architecture: str
    templates: Mapping[str, str]
    tokenizer: str
    pre: str
    start: int | None
    adds_start: bool
    ends: tuple[int, ...]
    adds_end: bool
    tensors: Mapping[str, int]
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def quantization(self) -> str:
        """How most of its tensors are stored, vectors aside, which stay whole in every quantisation."""
        stored = {kind: count for kind, count in self.tensors.items() if kind != "F32"} or dict(self.tensors)
        return max(stored, key=lambda kind: stored[kind], default="none")

    def facts(self) -> JsonTree:
        """Return what a record holds of the file; its template is too long for one."""
        return {
            "architecture": self.architecture,
            "tokenizer": self.tokenizer,
            "pre": self.pre,
            "bos": self.start,
            "add_bos": self.adds_start,
            "ends": list(self.ends),
            "tensors": dict(self.tensors),
            "sampling": dict(self.sampling),
        }


def read_header(file: Path) -> GgufHeader:
    """Read the header of a GGUF file; AnsweringError for one that is none, or that was cut."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise AnsweringError(
            f"{file.name} cannot be read: the package gguf is not installed\n  pip install gguf"
        ) from None
    try:
        reader = GGUFReader(file)
        told = {name: one.contents() for name, one in reader.fields.items() if name not in _LONG}
        stored = Counter(str(tensor.tensor_type.name) for tensor in reader.tensors)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise AnsweringError(
            f"{file} is no whole GGUF file: {' '.join(str(error).split()) or type(error).__name__}"
        ) from None
    return _header(told, stored)


def _header(told: Mapping[str, Any], stored: Mapping[str, int]) -> GgufHeader:
    named = {
        name.removeprefix(_NAMED_TEMPLATE): told[name] for name in told if name.startswith(_NAMED_TEMPLATE)
    }
    default = {"default": told[TEMPLATE]} if TEMPLATE in told else {}
    return GgufHeader(
        architecture=told.get("general.architecture", ""),
        templates={**default, **named},
        tokenizer=told.get("tokenizer.ggml.model", ""),
        pre=told.get("tokenizer.ggml.pre", ""),
        start=told.get("tokenizer.ggml.bos_token_id"),
        adds_start=bool(told.get("tokenizer.ggml.add_bos_token", False)),
        ends=tuple(dict.fromkeys(told[end] for end in _ENDS if end in told)),
        adds_end=bool(told.get("tokenizer.ggml.add_eos_token", False)),
        tensors=dict(stored),
        sampling={
            name.removeprefix(_SAMPLING): value for name, value in told.items() if name.startswith(_SAMPLING)
        },
    )
