from __future__ import annotations

import json
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.reading import taken_apart
from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
from pytest_finetune.data.chat import folder_chat
from pytest_finetune.data.formatting import Pair
from pytest_finetune.experiment import Generation, Lora, Prompt, Training
from pytest_finetune.training.base import BaseSource
from pytest_finetune.training.model import load_tokenizer
from pytest_finetune.training.request import Progress, TrainingRequest
from pytest_finetune.training.sft import TrainingError, train

Ask = Callable[..., TrainingRequest]

SHORT = Training(
    max_seq_length=128,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=1,
    learning_rate=1e-2,
    max_steps=3,
)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_adapter_is_two_files_and_the_same_bytes_every_time(ask: Ask) -> None:
    dropout = Lora(r=4, alpha=8, dropout=0.2)
    first = train(ask("first", lora=dropout))
    second = train(ask("second", lora=dropout))
    assert sorted(folder_bytes(first.folder)) == ["adapter_config.json", "adapter_model.safetensors"]
    assert folder_bytes(first.folder) == folder_bytes(second.folder)


def test_another_seed_gives_another_adapter(ask: Ask) -> None:
    first = train(ask("first", training=SHORT))
    second = train(ask("second", training=replace(SHORT, seed=1)))
    assert folder_bytes(first.folder) != folder_bytes(second.folder)


def test_the_configuration_names_the_base_as_the_experiment_does(ask: Ask) -> None:
    result = train(
        ask(training=SHORT, lora=Lora(r=2, target_modules=("v_proj", "q_proj")), revision="abc123")
    )
    config = json.loads((result.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "models/tiny"
    assert config["revision"] == "abc123"
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert config["r"] == 2


def test_training_lowers_the_loss_and_tells_its_progress(ask: Ask) -> None:
    told: list[Progress] = []
    training = replace(SHORT, max_steps=None, num_train_epochs=5.0, lr_scheduler_type="constant")
    result = train(ask(training=training, progress=told.append))
    assert result.steps == 20
    assert [entry["step"] for entry in result.log] == list(range(1, 21))
    assert result.final_loss == result.log[-1]["loss"]
    assert result.log[-1]["loss"] < result.log[0]["loss"] - 0.5
    assert set(result.log[0]) == {"step", "epoch", "loss", "learning_rate"}
    assert [progress.step for progress in told] == list(range(1, 21))
    assert told[-1].steps == 20
    assert told[-1].eta_s == 0
    assert told[-1].loss == pytest.approx(result.log[-1]["loss"], rel=1e-4)
    assert all(progress.tokens_per_s and progress.tokens_per_s > 0 for progress in told)
    assert {"imports", "load", "steps", "training"} <= result.timings.keys()  # too short for a checkpoint
    assert sum(result.timings.values()) == result.seconds
    assert result.timings["steps"] > 0
    if sys.platform == "linux":
        assert all(progress.memory_bytes and progress.memory_bytes > 2**20 for progress in told)
    assert result.peak_bytes is None
    assert result.trainable is not None
    assert result.parameters is not None
    assert 0 < result.trainable < result.parameters


def test_accumulated_micro_batches_train_like_one_batch(ask: Ask) -> None:
    import torch
    from safetensors.torch import load_file

    whole = train(ask("whole", training=SHORT))
    parts = train(
        ask("parts", training=replace(SHORT, per_device_train_batch_size=1, gradient_accumulation_steps=4))
    )
    assert [entry["loss"] for entry in parts.log] == pytest.approx(
        [entry["loss"] for entry in whole.log], rel=1e-4
    )
    left = load_file(whole.folder / "adapter_model.safetensors")
    right = load_file(parts.folder / "adapter_model.safetensors")
    # Adam turns rounding of tiny gradients into steps of full size, so single weights may differ.
    for name in left:
        assert (
            torch.nn.functional.cosine_similarity(left[name].flatten(), right[name].flatten(), dim=0) > 0.99
        )


def test_the_process_is_left_as_it_was(ask: Ask) -> None:
    import numpy
    import torch

    random.seed(3)
    numpy.random.seed(3)
    torch.manual_seed(3)
    before = (
        dict(os.environ),
        random.getstate(),
        numpy.random.get_state()[1].tolist(),  # type: ignore[index]
        torch.get_rng_state().tolist(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        logging.getLogger("trl").level,
        list(warnings.filters),
    )
    train(ask(training=replace(SHORT, full_determinism=True)))
    after = (
        dict(os.environ),
        random.getstate(),
        numpy.random.get_state()[1].tolist(),  # type: ignore[index]
        torch.get_rng_state().tolist(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        logging.getLogger("trl").level,
        list(warnings.filters),
    )
    assert after == before


def test_full_determinism_holds_during_the_training_alone(ask: Ask) -> None:
    import torch

    seen: list[tuple[bool, str | None]] = []

    def look(_: Progress) -> None:
        seen.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))

    train(ask("free", training=replace(SHORT, max_steps=1), progress=look))
    train(ask("fixed", training=replace(SHORT, max_steps=1, full_determinism=True), progress=look))
    look(Progress(0, 0, None, 0.0, 0.0, None, 0.0))
    assert [deterministic for deterministic, _ in seen] == [False, True, False]
    assert seen[1][1] == ":16:8"
    assert seen[0][1] == seen[2][1] != ":16:8"


def test_a_training_prints_nothing(ask: Ask, capfd: pytest.CaptureFixture[str]) -> None:
    train(ask(training=SHORT))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_training_asks_no_network(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("CI", raising=False)
    assert train(ask(training=SHORT)).steps == 3


def test_chat_rows_are_trained_on_the_answer_alone(ask: Ask) -> None:
    pairs = tuple(
        Pair(
            [{"role": "user", "content": f"What is {i} plus 1?"}],
            [{"role": "assistant", "content": f"{i + 1}"}],
        )
        for i in range(8)
    )
    result = train(ask(pairs=pairs, training=SHORT))
    assert result.tokens["supervised"] < result.tokens["p50"] * 8 / 2
    assert result.notes == ()


def test_every_answer_of_a_conversation_is_trained_on_when_asked_for(ask: Ask) -> None:
    def talk(i: int, **weight: int) -> list[dict[str, Any]]:
        return [
            {"role": "assistant", "content": f"{i + 1}", **weight},
            {"role": "user", "content": "And plus 2?"},
            {"role": "assistant", "content": f"{i + 2}"},
        ]

    asked = [[{"role": "user", "content": f"What is {i} plus 1?"}] for i in range(4)]
    both = train(ask("both", pairs=tuple(Pair(asked[i], talk(i)) for i in range(4)), training=SHORT))
    last = train(
        ask("last", pairs=tuple(Pair(asked[i], talk(i, weight=0)) for i in range(4)), training=SHORT)
    )
    assert both.tokens["max"] == last.tokens["max"]
    assert both.tokens["supervised"] == 2 * last.tokens["supervised"] > 0
    assert last.final_loss != both.final_loss


THINKS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>{% generation %}"
    "{{ m.content }}</s>{% endgeneration %}"
    "{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


def test_a_row_is_trained_as_it_is_asked_where_the_template_opens_a_thought(
    ask: Ask, base_builder: Callable[..., Path], tmp_path: Path
) -> None:
    base = base_builder(tmp_path / "thinks", chat=THINKS)
    pairs = tuple(
        Pair([{"role": "user", "content": f"{i} + 1"}], [{"role": "assistant", "content": f"{i + 1}"}])
        for i in range(4)
    )
    experiment = replace(ask().experiment, peft_method="full", prompt=Prompt("chat"))
    learnt = replace(SHORT, learning_rate=3e-3, max_steps=70)
    result = train(replace(ask(base=str(base), pairs=pairs), experiment=replace(experiment, training=learnt)))
    fast = load_tokenizer(BaseSource(str(base)))
    taught = fast("\n</think>\n\n1</s>", add_special_tokens=False)["input_ids"]
    assert result.tokens["supervised"] == len(pairs) * len(taught)
    assert result.notes == ()
    asked = [Prompted(str(at), at, pair.prompt) for at, pair in enumerate(pairs)]
    said = TransformersRuntime(str(base)).answer(asked, Generation(max_new_tokens=30), result.folder)
    read = taken_apart(asked, said, folder_chat(base, {}), len)
    assert [answer.response for answer in read] == [str(i + 1) for i in range(4)]
    other = replace(SHORT, sft={"assistant_only_loss": True})
    with pytest.raises(TrainingError, match=r"4 of 4 otherwise than they are asked"):
        train(ask(base=str(base), pairs=pairs, training=other))


def test_without_a_row_nothing_starts(ask: Ask) -> None:
    with pytest.raises(TrainingError, match="there is no training row"):
        train(ask(pairs=()))
