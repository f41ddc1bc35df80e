"""How far apart two models' next tokens are along an answer that one of them gave: KL divergence by token, in nats."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_finetune.answering.runtimes.protocol import AnsweringError

if TYPE_CHECKING:
    import torch

Forward = Callable[..., Any]  # a model, called as transformers calls one
_TOKENS_AT_ONCE: Final = 128  # float32 copies of so many rows of the vocabulary are held at a time


class Spoken(NamedTuple):
    """An answer as tokens: those of the prompt, those of the answer, and whether the model ended it itself."""

    prompt: list[int]
    answer: list[int]
    stopped: bool

    @property
    def places(self) -> range:
        """The positions whose next token belongs to the answer, its end included."""
        first = len(self.prompt) - 1
        return range(first, first + len(self.answer) + self.stopped)


def token_kl(spoken: Spoken, base: Forward, tuned: Forward, device: str) -> tuple[float, ...]:
    """Return KL(base || tuned) at each token of an answer; `base` and `tuned` are the models' forward passes.

    Each answer is read alone, so that no padding and no neighbour can change it.
    """
    import torch

    if not spoken.places:
        return ()
    ids = torch.tensor([spoken.prompt + spoken.answer], device=device)
    kept = slice(spoken.places.start, spoken.places.stop)
    with torch.inference_mode():
        ours, theirs = (model(input_ids=ids, use_cache=False).logits[0, kept] for model in (base, tuned))
        if ours.shape != theirs.shape:
            sizes = f"{ours.shape[-1]} and {theirs.shape[-1]}"
            raise AnsweringError(f"the base and the tuned model have vocabularies of different size: {sizes}")
        parts = zip(ours.split(_TOKENS_AT_ONCE), theirs.split(_TOKENS_AT_ONCE), strict=True)
        return tuple(value for part in parts for value in _kl(*part))


def _kl(ours: torch.Tensor, theirs: torch.Tensor) -> list[float]:
    """Return sum p (log p - log q) by row, in float32; a token that the base rules out adds nothing."""
    p, q = (logits.float().log_softmax(-1) for logits in (ours, theirs))
    gaps = (p.exp() * (p - q)).masked_fill(p.isneginf(), 0.0).sum(-1)
    found: list[float] = gaps.clamp(min=0.0).tolist()  # rounding may leave it a hair below zero
    return found
