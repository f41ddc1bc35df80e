"""Prove that a converted model is the one that was merged: its next tokens on a few rows, as its own server tells them.

A converter that puts a model's weights in another order writes a file that loads, and answers nonsense. So the file in
its whole form is asked before anything is quantised from it, for what quantisation does is what is to be measured. An
adapter's own file is asked beside that file of its base, against the adapter on its base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.answering.runtimes.proof import MOST_TOKENS, Tokens
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.wording import counted, figure
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from torch import Tensor

PLACES: Final = 8
"""At how many places of each row the next token is asked for, spread over it, its last one among them."""
LIKELIEST: Final = 10
# The largest difference that rounding explains, as a share of the largest logit. llama.cpp keeps what it has read in
# float16 whatever the weights are in. Of conversions that were right, f32 came to 0.0002, f16 to 0.0005 and bf16 to
# 0.002; of those with queries and keys in the wrong order to 0.5, and to 0.009 in a model of two random layers.
_ALLOWED: Final = {"f32": 0.005, "f16": 0.005, "bf16": 0.02}

NextTokens = Callable[[Sequence[int], int], Mapping[int, float]]
"""Tell the likeliest next tokens after these, so many of them, with their log probabilities; none that is not told."""


class Converted(NamedTuple):
    """What was converted: a model in `folder` into a file of a whole form.

    With an adapter, that model is its base, and `adapter_file` is what the adapter was converted into.
    """

    file: Path
    form: str
    folder: Path
    adapter: Path | None = None
    adapter_file: Path | None = None


@dataclass(frozen=True, slots=True)
class ConversionProof:
    """How far a converted model's log probabilities lie from the original's at most, and how far they may.

    Of an adapter's own file, `moved` is how far the adapter moves them: a fault of a smaller part than `allowed` of it
    is not seen.
    """

    rows: int
    places: int
    largest: float
    allowed: float
    moved: float | None = None

    def as_json(self) -> JsonTree:
        """Return what is stored beside the file."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, tree: Json) -> ConversionProof:
        """Read what `as_json` wrote."""
        return cls(**tree)

    @property
    def line(self) -> str:
        """Say what was proved."""
        moved = "" if self.moved is None else f", the adapter moves them by up to {figure(self.moved)}"
        return (
            f"conversion proved at {counted(self.places, 'place')} of {counted(self.rows, 'row')}: largest difference "
            f"of a log probability {figure(self.largest)} (rounding explains up to {figure(self.allowed)}{moved})"
        )


def prove_conversion(
    logits: Sequence[Tensor],
    rows: Tokens,
    next_tokens: NextTokens,
    form: str,
    without: Sequence[Tensor] | None = None,
) -> ConversionProof:
    """Return the proof that a server's next tokens are those of the original; AnsweringError if they are not.

    `logits` are the original's at every token of `rows`, `form` is how the file keeps its weights. For an adapter's own
    file `without` are the logits of its base alone.
    """
    largest, moved, other, places = 0.0, 0.0, 0, 0
    scale = max(float(one.abs().max()) for one in logits)
    allowed = _ALLOWED[form] * scale
    for row, judged, alone in zip(rows, logits, without or logits, strict=True):
        ids = list(row)[:MOST_TOKENS]
        for at in _places(len(ids)):
            ours, bare = judged[at].log_softmax(-1), alone[at].log_softmax(-1)
            told = next_tokens(ids[: at + 1], LIKELIEST)
            if not told:
                continue
            largest = max(largest, *(abs(float(ours[token]) - log) for token, log in told.items()))
            moved = max(moved, *(abs(float(ours[token] - bare[token])) for token in told))
            places += 1
            first, second = ours.topk(2).values
            other += int(ours.argmax()) != max(told, key=lambda token: told[token]) and bool(
                first - second > allowed
            )
    proof = ConversionProof(len(rows), places, largest, allowed, None if without is None else moved)
    if not largest <= allowed or other or not places:
        raise AnsweringError(_refusal(proof, other))
    return proof


def _places(length: int) -> list[int]:
    """Return positions spread evenly over a row, the last among them."""
    number = min(PLACES, length)
    return [(length * (at + 1)) // number - 1 for at in range(number)]


def _refusal(proof: ConversionProof, other: int) -> str:
    whole = ("model", "that was merged", "its")
    what, which, whose = (
        whole if proof.moved is None else ("adapter", "that was trained", "beside its base its")
    )
    return (
        f"the converted {what} is not the one {which}: at {counted(proof.places, 'place')} of "
        f"{counted(proof.rows, 'held-out row')} {whose} log probabilities differ by up to {figure(proof.largest)}, "
        f"where rounding explains {figure(proof.allowed)}, and {other} of them would go on with another token\n"
        "  the converter writes this architecture's weights in another order or leaves some out: take another release "
        f"of llama.cpp{'' if proof.moved is None else ', or leave `adapter: lora` out'}"
    )
