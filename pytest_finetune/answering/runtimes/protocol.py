"""What an engine must be able to do to give an arm its answers; imports no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pytest_finetune.errors import FinetuneError
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.experiment import Generation


class AnsweringError(FinetuneError):
    """The runtime cannot answer; the message is complete and is for the user."""


@runtime_checkable
class Runtime(Protocol):
    """One base model, ready to answer with and without an adapter."""

    def answer(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None = None
    ) -> list[Answer]:
        """Return one answer a prompt, in the prompts' order; `adapter` is a folder, None asks the base alone.

        The same arguments give the same text. Raises AnsweringError. A runtime that can hold answers to what
        `generation.constrain` says (as JSON text a JSON Schema, or the list of all answers) has an attribute
        ``constrains = True``; others are never given one. A runtime that may not decode as `generation` says tells it
        after its answers in an attribute ``decoding``: what the base's folder sets (`base_sets`) and which settings
        it could not be asked for (`refused`). One that has held the prompts that a server makes against those of the
        decision tells it in an attribute ``rendering``.
        """
        ...

    def release(self) -> None:
        """Give the model's memory back; the next answer loads it again."""
        ...


@runtime_checkable
class DescribedRuntime(Runtime, Protocol):
    """A runtime with settings of its own, on which its answers hang."""

    def about(self, adapter: Path | None = None) -> JsonTree:
        """Return, as JSON, what the answers' key must hold besides model, prompts, generation and packages.

        Loads no model. Raises AnsweringError.
        """
        ...


@runtime_checkable
class ShippingRuntime(Runtime, Protocol):
    """A runtime that answers from files which can be shipped as they are."""

    def files(self, adapter: Path | None) -> Mapping[str, Path]:
        """Return the files that answer for a model, by the names under which they are shipped; AnsweringError."""
        ...


@runtime_checkable
class ComparingRuntime(Runtime, Protocol):
    """A runtime that sees the probabilities of its models besides their texts; others need not."""

    def token_kl(
        self, prompts: Sequence[Prompted], answers: Sequence[Answer], adapter: Path
    ) -> list[tuple[float, ...]]:
        """Return, for each of the base's own answers to `prompts`, the divergence at each of its tokens.

        That is KL(base || tuned) in nats between the two models' next tokens, both reading the prompt and the
        answer so far. The end of an answer that stopped counts as a token. Raises AnsweringError.
        """
        ...
