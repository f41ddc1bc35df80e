"""What an engine prints is shown without its secrets and without control characters."""

from __future__ import annotations

import pytest

from pytest_finetune.executors.masking import end_of, masked


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("export HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "hf_abcdefghijkl"),
        ('{"api_key": "0123456789abcdef"}', "0123456789abcdef"),
        ("aws_secret_access_key = wJalrXUtnFEMIK7MDENGbPxRfiCY", "wJalrXUtn"),
        ("Authorization: Bearer abcdefgh.ijkl", "abcdefgh.ijkl"),
        ("db password: hunter22", "hunter22"),
        ("AKIAIOSFODNN7EXAMPLQ", "AKIAIOSFODNN7EXAMPLQ"),
    ],
)
def test_a_secret_is_not_shown(text: str, secret: str) -> None:
    assert secret not in masked(text, {})


def test_what_our_own_environment_calls_a_secret_is_masked_wherever_it_stands() -> None:
    ours = {"WANDB_API_KEY": "plainwordskey", "HOME": "/home/me", "X_TOKEN": "1"}
    assert masked("wrote plainwordskey to /home/me 1", ours) == "wrote [WANDB_API_KEY] to /home/me 1"


def test_ordinary_words_stay() -> None:
    said = "training step 3/40  loss 0.312  1520 tokens/s  31 s left, tokenizer: fast"
    assert masked(said, {}) == said


def test_the_end_of_an_output_is_short_and_has_no_control_characters() -> None:
    lines = end_of("\n".join([*map(str, range(50)), "\x1b[31mred\x1b[0m", "x" * 400]), {})
    assert len(lines) == 20
    assert lines[-3] == "49"
    assert "\x1b" not in lines[-2]
    assert len(lines[-1]) == 300
