"""A converted model is proved by what its server tells of the next tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from pytest_finetune.answering.runtimes import AnsweringError
from pytest_finetune.answering.runtimes.gguf.proof import ConversionProof, NextTokens, prove_conversion
from pytest_finetune.wording import figure

ROWS = [list(range(20)), list(range(5)), [7]]


def logits(seed: int) -> list[torch.Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return [torch.randn(len(row), 50, generator=drawn) * 5 for row in ROWS]


def server_of(told: Sequence[torch.Tensor], silent_at: int | None = None) -> NextTokens:
    """Answer as llama.cpp's server does: the likeliest tokens, and nothing where a character is not whole."""

    def next_tokens(tokens: Sequence[int], most: int) -> dict[int, float]:
        (of,) = [
            at for at, row in enumerate(ROWS) if row[: len(tokens)] == list(tokens) and asked[at] < len(row)
        ][:1]
        asked[of] = len(tokens)
        if len(tokens) == silent_at:
            return {}
        top = told[of][len(tokens) - 1].log_softmax(-1).topk(most)
        return dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))

    asked = [0] * len(ROWS)
    return next_tokens


def test_a_right_conversion_is_proved_up_to_rounding() -> None:
    judged = logits(0)
    rounded = [one.to(torch.float16).float() for one in judged]
    proof = prove_conversion(judged, ROWS, server_of(rounded, silent_at=5), "f16")
    assert proof.rows == 3
    assert (
        proof.places == 8 + 5 + 1 - 2
    )  # of the row with 20 tokens and of that with 5, the one with 5 is not told
    assert 0 < proof.largest < proof.allowed / 5
    assert ConversionProof.of(proof.as_json()) == proof
    assert proof.line.startswith("conversion proved at 12 places of 3 rows: largest difference of a log prob")


def test_weights_in_another_order_and_a_server_that_tells_nothing_are_no_proof() -> None:
    judged = logits(0)
    with pytest.raises(
        AnsweringError, match=r"(?s)is not the one that was merged: at 14 places of 3 held-out rows.*"
    ):
        prove_conversion(judged, ROWS, server_of(logits(1)), "f16")
    off = [one.clone() for one in judged]
    off[0][19] *= 1.02  # rounding to bfloat16 explains it, rounding to float16 does not
    assert prove_conversion(judged, ROWS, server_of(off), "bf16").largest > 0
    with pytest.raises(AnsweringError, match=r"take another release of llama\.cpp"):
        prove_conversion(judged, ROWS, server_of(off), "f16")
    with pytest.raises(AnsweringError, match="at 0 places"):
        prove_conversion(judged, ROWS, lambda tokens, most: {}, "f32")


def test_an_adapter_that_is_left_out_scaled_or_put_in_another_order_is_no_proof() -> None:
    alone, tuned = logits(0), logits(0)
    for one, drawn in zip(tuned, logits(1), strict=True):
        one += drawn / 5
    proof = prove_conversion(tuned, ROWS, server_of(tuned), "f16", alone)
    assert proof.moved is not None
    assert proof.moved > 10 * proof.allowed
    assert ConversionProof.of(proof.as_json()) == proof
    assert f"the adapter moves them by up to {figure(proof.moved)})" in proof.line
    twice = [one + (one - bare) for one, bare in zip(tuned, alone, strict=True)]
    for served in (alone, twice):
        with pytest.raises(
            AnsweringError,
            match=r"(?s)adapter is not the one that was trained: at 14 places .* beside its base .*adapter: lora",
        ):
            prove_conversion(tuned, ROWS, server_of(served), "f16", alone)
