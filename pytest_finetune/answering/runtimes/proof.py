"""Prove that a written model answers as the one that it was made of: their logits on a few held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.data.formatting import format_pair
from pytest_finetune.data.rows import read_rows
from pytest_finetune.training.held_out import chosen
from pytest_finetune.training.tokenised import tokenise
from pytest_finetune.wording import counted, figure
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_finetune.experiment import Experiment

ROWS: Final = 3
MOST_TOKENS: Final = 512
# The largest difference that rounding explains, as a share of the largest logit. Of merges that were right, float32
# came to 0.000001, bfloat16 to 0.011; an int8 base rounds what goes into each layer, and came to 0.02.
_ALLOWED: Final = {"float32": 0.001, "float16": 0.02, "bfloat16": 0.1}
_ROUNDED_INPUTS: Final = 0.1

Tokens = Sequence[Sequence[int]]
RowsOf = Callable[["PreTrainedTokenizerBase"], Tokens]
"""The rows to prove on, as a tokenizer reads them: prompt and expected answer."""


_SENTENCES: Final = (
    "The printer on the third floor is out of paper again, and nobody knows who is to refill it.",
    '{"name": "Ada", "born": 1815, "works": ["Notes", "Letters"]}',
    "Translate into French: good morning. Answer: bonjour.",
)


def any_rows(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Return rows for a model of which no held-out row is known."""
    return [tokenizer(text=text)["input_ids"] for text in _SENTENCES]


def held_out_rows(experiment: Experiment) -> RowsOf:
    """Return the first held-out rows, spread over the file, with their answers; any rows where there are none."""

    def rows(tokenizer: PreTrainedTokenizerBase) -> Tokens:
        paths = experiment.paths
        try:
            found = list(read_rows(experiment.root, paths.eval_file, "eval", columns=paths.columns))
        except OSError:
            found = []
        asked = chosen(found, ROWS)
        pairs = [format_pair(row, experiment.prompt) for row in asked]
        places = [f"{row.file}:{row.line}" for row in asked]
        told = tokenise(tokenizer, pairs, places, experiment.prompt.chat_template_kwargs)
        return [row.ids for row in told] or any_rows(tokenizer)

    return rows


@dataclass(frozen=True, slots=True)
class Proof:
    """How far the logits of two models lie apart at most, and how far they may."""

    rows: int
    largest: float
    allowed: float

    def as_json(self) -> JsonTree:
        """Return what is stored beside the model."""
        return asdict(self)

    @classmethod
    def of(cls, tree: Json) -> Proof:
        """Read what `as_json` wrote."""
        return cls(**tree)

    @property
    def line(self) -> str:
        """Say what was proved."""
        return (
            f"merge proved on {counted(self.rows, 'row')}: largest logit difference {figure(self.largest)} "
            f"(rounding explains up to {figure(self.allowed)})"
        )


def logits_of(model: PreTrainedModel, rows: Tokens) -> list[Tensor]:
    """Return the logits at every token of each row, in float32 on the CPU; each row goes through alone."""
    import torch

    found = []
    with torch.no_grad():
        for ids in rows:
            given = torch.tensor([list(ids)[:MOST_TOKENS]], device=model.device)
            found.append(model(input_ids=given, use_cache=False).logits[0].float().cpu())
    return found


def check_tokens(judged: Tokens, written: Tokens) -> None:
    """Raise AnsweringError unless the tokenizer beside the written model reads the rows as the base's does.

    transformers may choose its class by the model's, and a language model that was taken out of one that also sees
    is of another.
    """
    other = sum(list(a) != list(b) for a, b in zip(judged, written, strict=True))
    if other:
        raise AnsweringError(
            f"the merged model would be asked otherwise than the one that was judged: the tokenizer beside it reads "
            f"{other} of {counted(len(judged), 'row')} as other tokens, because transformers takes another class of "
            "tokenizer for it\n  serve the adapter on its base instead of the merged model"
        )


def prove(
    judged: Sequence[Tensor], written: Sequence[Tensor], dtypes: Sequence[str], quantization: str
) -> Proof:
    """Return the proof that the logits agree as far as the coarsest of `dtypes` allows; AnsweringError if they do not.

    The most likely token must be the same wherever its lead is larger than rounding explains.
    """
    import torch

    scale = max(float(one.abs().max()) for one in judged)
    share = max([_ALLOWED[dtype] for dtype in dtypes] + [_ROUNDED_INPUTS] * (quantization == "int8"))
    proof = Proof(
        rows=len(judged),
        largest=max(float((a - b).abs().max()) for a, b in zip(judged, written, strict=True)),
        allowed=share * scale,
    )
    other = tokens = 0
    for before, after in zip(judged, written, strict=True):
        first, second = torch.topk(before, 2, dim=-1).values.unbind(-1)
        differs = before.argmax(-1) != after.argmax(-1)
        other += int((differs & (first - second > proof.allowed)).sum())
        tokens += len(before)
    if not proof.largest <= proof.allowed or other:
        raise AnsweringError(_refusal(proof, other, tokens))
    return proof


def _refusal(proof: Proof, other: int, tokens: int) -> str:
    return (
        f"the merged model is not the one that was judged: on {counted(proof.rows, 'held-out row')} its logits differ "
        f"by up to {figure(proof.largest)}, where rounding explains {figure(proof.allowed)}, and {other} of "
        f"{counted(tokens, 'next token')} would be another one"
    )
