"""Decode under a grammar: llguidance says which tokens may come next, all others are ruled out."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.errors import install

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

# One spelling, that of json.dumps: with free white space a model can fill its tokens with line breaks.
_FORM: Final[Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Constrained:
    """A tokenizer as llguidance knows it; makes one logits processor for each batch."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Collection[int]) -> None:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError:
            raise AnsweringError(
                "generation.constrain: contract needs llguidance, which is not installed\n"
                f"  {install('constrain')}, or leave generation.constrain out"
            ) from None
        self._stops = stops
        try:
            self._tokenizer = from_tokenizer(tokenizer, eos_token=sorted(stops))
        except ValueError as error:
            raise AnsweringError(
                f"generation.constrain: llguidance cannot read this tokenizer: {error}\n"
                "  generation: {constrain: false} leaves the arm out"
            ) from None

    def processor(self, constrain: str, batch_size: int) -> GrammarProcessor:
        """Return a fresh processor for one batch; AnsweringError when the format cannot be decoded under."""
        from llguidance import LLMatcher

        grammar = _grammar(constrain)
        trouble = LLMatcher.validate_grammar(grammar, self._tokenizer)
        if trouble:
            raise AnsweringError(
                f"generation.constrain: the contract's schema cannot be decoded under: {trouble}"
            )
        return GrammarProcessor(
            [LLMatcher(self._tokenizer, grammar) for _ in range(batch_size)], sorted(self._stops)
        )


def trouble_with(constrain: str) -> str:
    """Say what llguidance does not know of a format; empty when answers can be held to it. Imports llguidance."""
    from llguidance import LLMatcher

    return str(LLMatcher.validate_grammar(_grammar(constrain), None))


def _grammar(constrain: str) -> str:
    """Return llguidance's grammar of a JSON Schema, or of a list of all answers."""
    from llguidance import LLMatcher

    asked = json.loads(constrain)
    if isinstance(asked, list):
        return LLMatcher.grammar_from_lark(
            "start: " + " | ".join(json.dumps(one, ensure_ascii=False) for one in asked)
        )
    return LLMatcher.grammar_from_json_schema(constrain, overrides=_FORM)


class GrammarProcessor:
    """Called by `generate` at every step: takes in the token that was chosen, rules out what breaks the grammar."""

    def __init__(self, matchers: list[LLMatcher], stops: list[int]) -> None:
        self._matchers = matchers
        self._stops = stops
        self._started = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores with every forbidden token at minus infinity; `scores` is [batch, vocabulary]."""
        import torch

        allowed = torch.zeros_like(scores, dtype=torch.bool, device="cpu")
        for row, matcher in enumerate(self._matchers):
            if self._started and not matcher.is_stopped():
                matcher.consume_token(int(input_ids[row, -1]))
            if not matcher.is_stopped():
                allowed[row] = self._allowed(matcher, scores.shape[-1])
            else:  # the value is complete: nothing but the end may follow
                allowed[row, self._stops] = True
            if matcher.is_error():
                raise AnsweringError(f"generation.constrain: {matcher.get_error()}")
        self._started = True
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))

    @staticmethod
    def _allowed(matcher: LLMatcher, size: int) -> Tensor:
        """Unpack the matcher's bits: one for each token, the lowest first."""
        import torch

        packed = torch.frombuffer(bytearray(matcher.compute_bitmask()), dtype=torch.uint8)
        bits = (packed.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
        flat = bits.flatten()[:size].bool()
        return torch.nn.functional.pad(flat, (0, size - flat.numel()))
