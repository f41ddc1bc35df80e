from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.experiment import Training
from pytest_finetune.training.memory_error import OutOfMemoryError
from pytest_finetune.training.request import TrainingError, TrainingRequest
from pytest_finetune.training.sft import train

Ask = Callable[..., TrainingRequest]

TRAINING = Training(
    max_seq_length=128,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=1,
    learning_rate=1e-2,
    max_steps=4,
)


def test_a_loss_that_is_not_finite_stops_at_once_with_the_step_and_the_rows(ask: Ask) -> None:
    wild = replace(TRAINING, learning_rate=1e30, sft={"max_grad_norm": 0.0}, lr_scheduler_type="constant")
    request = ask(training=wild)
    with pytest.raises(TrainingError) as caught:
        train(request)
    lines = str(caught.value).split("\n")
    assert lines[0].startswith("the loss is nan at step 2 of 4: the training was stopped and nothing stored")
    assert sum(line.startswith("  data/train.jsonl:") for line in lines) == 4
    assert lines[-1].startswith("  the learning rate was 1e+30: lower training.learning_rate")
    assert not request.folder.exists()


def test_a_base_that_is_not_finite_is_told_from_a_learning_rate_that_is_too_high(
    tiny_base: Path, tmp_path: Path, ask: Ask
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    base = shutil.copytree(tiny_base, tmp_path / "broken")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError) as caught:
        train(ask(training=TRAINING, base=str(base)))
    assert str(caught.value).split("\n")[-1] == (
        "  no step had been taken: model.layers.1.mlp.up_proj.weight of the base is not finite: download the base again"
    )


def test_an_adapter_with_a_broken_weight_is_not_stored(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from pytest_finetune.training.adapter import save_adapter

    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), LoraConfig(target_modules=["0"]))
    with torch.no_grad():
        next(iter(parameter for parameter in model.parameters() if parameter.requires_grad))[0, 0] = torch.inf
    request = ask()
    with pytest.raises(TrainingError, match=r"not finite, in 1 of 2 tensors \(.*lora_A.*\): not stored"):
        save_adapter(model, request.experiment, request.folder)
    assert not request.folder.exists()


def fails_with(error: BaseException) -> Callable[[Any], None]:
    def tell(_: object) -> None:
        raise error

    return tell


def test_running_out_of_memory_is_told_with_what_to_change(ask: Ask) -> None:
    error = RuntimeError(
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 8 GB"
    )
    with pytest.raises(OutOfMemoryError) as caught:
        train(ask(training=TRAINING, progress=fails_with(error)))
    message = str(caught.value)
    assert message.startswith("the training ran out of memory on cpu\n")
    assert "you tried 8 GB" in message
    assert "per_device_train_batch_size 4, max_seq_length 128, gradient_checkpointing false" in message
    assert "    per_device_train_batch_size 1 with gradient_accumulation_steps 4 (same batch)" in message
    assert "    gradient_checkpointing true" in message
    assert "    peft_method qlora (the base in 4 bits)" in message
    assert caught.value.__cause__ is error


def test_what_the_failed_training_held_is_let_go_while_its_error_is_still_kept(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from trl import SFTTrainer

    held: list[weakref.ref[Any]] = []

    def full(self: Any, model: Any, *rest: Any, **named: Any) -> Any:
        held.append(weakref.ref(model))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(SFTTrainer, "compute_loss", full)
    with pytest.raises(OutOfMemoryError) as caught:
        train(ask(training=TRAINING))
    assert caught.value.__cause__ is not None
    assert [model() for model in held] == [None]


def test_any_other_failure_is_never_called_out_of_memory(ask: Ask) -> None:
    with pytest.raises(RuntimeError, match=r"^the disk is on fire$") as caught:
        train(ask(training=TRAINING, progress=fails_with(RuntimeError("the disk is on fire"))))
    assert not isinstance(caught.value, TrainingError)
