from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.training.request import TrainingRequest
from pytest_finetune.training.sft import train
from pytest_finetune.training.surroundings import surroundings


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_base_answers_the_same_bit_for_bit_before_and_after_a_training(
    quantization: str, ask: Callable[..., TrainingRequest], tiny_base: Path
) -> None:
    import torch

    runtime = TransformersRuntime(str(tiny_base), quantization=quantization)
    ids = torch.arange(5, 25).reshape(1, 20)
    prompts = [f"Instruction: add\nInput: {number} and 1\nAnswer:" for number in range(4)]

    def observe() -> tuple[list[str], torch.Tensor]:
        with torch.no_grad():
            return runtime.generate(prompts), runtime.model(ids).logits

    texts, logits = observe()
    train(ask(method="qlora" if quantization == "nf4" else "lora", quantization=quantization))
    after_texts, after_logits = observe()
    assert after_texts == texts
    assert torch.equal(after_logits, logits)


def test_noise_is_silenced_but_a_missing_derivative_is_an_error() -> None:
    with surroundings(offline=True):
        warnings.warn("an old name", FutureWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="autograd kernel"):
            warnings.warn("gemv_4bit: an autograd kernel was not registered to the key", stacklevel=1)


def test_what_the_block_changes_is_put_back_even_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("ROOM_A", "1")
    monkeypatch.setenv("ROOM_B", "2")
    before = dict(os.environ)
    state = torch.get_rng_state()

    def disturb() -> None:
        os.environ["ROOM_A"] = "9"
        del os.environ["ROOM_B"]
        os.environ["ROOM_C"] = "3"
        torch.manual_seed(12345)
        torch.use_deterministic_algorithms(True)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"), surroundings(offline=True):
        disturb()
    assert dict(os.environ) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_being_offline_ends_with_the_block() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_HUB")}
    code = (
        "import os\n"
        "from pytest_finetune.training.surroundings import surroundings\n"
        "with surroundings(offline=True):\n"
        "    from huggingface_hub import constants\n"
        "    assert constants.is_offline_mode() and constants.HF_HUB_DISABLE_TELEMETRY\n"
        "assert not constants.is_offline_mode() and not constants.HF_HUB_DISABLE_TELEMETRY\n"
        "assert 'HF_HUB_OFFLINE' not in os.environ\n"
        "with surroundings(offline=False):\n"
        "    assert not constants.is_offline_mode() and constants.HF_HUB_DISABLE_TELEMETRY\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240, env=environment)
