from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from pytest_finetune.experiment import Training
from pytest_finetune.training.request import TrainingError, TrainingRequest
from pytest_finetune.training.sft import train

BASE = Training(max_seq_length=64, per_device_train_batch_size=4, gradient_accumulation_steps=1, max_steps=2)


def refuse(given: Mapping[str, Any]) -> str:
    from pytest_finetune.training.arguments import check_passthrough

    with pytest.raises(TrainingError) as caught:
        check_passthrough(given)
    return str(caught.value)


def test_an_unknown_argument_names_the_nearest() -> None:
    assert refuse({"weight_decy": 0.1}) == (
        "training.sft.weight_decy: SFTConfig has no such argument; did you mean 'weight_decay'?"
    )


@pytest.mark.parametrize("name", ["max_seq_length", "tokenizer", "evaluation_strategy", "no_cuda"])
def test_an_argument_that_trl_removed_is_unknown(name: str) -> None:
    assert f"training.sft.{name}: SFTConfig has no such argument" in refuse({name: 1})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("weight_decay", "a lot", "float"),
        ("weight_decay", True, "float"),
        ("adam_beta1", None, "float"),
        ("logging_first_step", 1, "bool"),
        ("dataloader_num_workers", 1.5, "int"),
        ("neftune_noise_alpha", "x", "float or null"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_is_allowed(
    name: str, value: object, allowed: str
) -> None:
    assert refuse({name: value}) == (
        f"training.sft.{name}: found {value!r} ({type(value).__name__}), allowed: {allowed}"
    )


def test_a_choice_that_does_not_exist_lists_those_that_do() -> None:
    assert refuse({"loss_type": "mse"}) == (
        "training.sft.loss_type: found 'mse', allowed: 'nll', 'dft', 'chunked_nll'"
    )


def test_arguments_that_are_ours_say_where_to_write_them() -> None:
    message = refuse({"report_to": ["wandb"], "max_length": 5, "eos_token": "x"})
    assert message.split("\n") == [
        "training.sft.report_to: not to be set here: a training sends nothing anywhere; the record holds its "
        "log",
        "training.sft.max_length: not to be set here: write training.max_seq_length",
        "training.sft.eos_token: not to be set here: evaluation would stop at another token: set eos_token "
        "in the base model's tokenizer",
    ]


def test_right_values_pass() -> None:
    from pytest_finetune.training.arguments import check_passthrough

    check_passthrough(
        {
            "weight_decay": 1,
            "adam_beta2": 0.98,
            "neftune_noise_alpha": None,
            "lr_scheduler_kwargs": {"num_cycles": 2},
            "loss_type": "dft",
            "logging_first_step": True,
            "save_strategy": "no",
        }
    )


def test_what_is_passed_through_changes_the_training(ask: Callable[..., TrainingRequest]) -> None:
    plain = train(ask("plain", training=BASE))
    decayed = train(ask("decayed", training=replace(BASE, sft={"weight_decay": 0.9})))
    left, right = (result.folder / "adapter_model.safetensors" for result in (plain, decayed))
    assert left.read_bytes() != right.read_bytes()


def test_every_completion_token_and_more_is_trained_on_when_asked_for(
    ask: Callable[..., TrainingRequest],
) -> None:
    answer = train(ask("answer", training=BASE))
    everything = train(ask("everything", training=replace(BASE, sft={"completion_only_loss": False})))
    assert answer.log[0]["loss"] != everything.log[0]["loss"]


def test_an_optimizer_or_schedule_that_does_not_exist_names_the_nearest(
    ask: Callable[..., TrainingRequest],
) -> None:
    with pytest.raises(
        TrainingError, match=r"training.optim: found 'adamw_torhc'; did you mean 'adamw_torch'\?"
    ):
        train(ask(training=replace(BASE, optim="adamw_torhc")))
    with pytest.raises(
        TrainingError, match=r"training.lr_scheduler_type: found 'cosin'; did you mean 'cosine'\?"
    ):
        train(ask(training=replace(BASE, lr_scheduler_type="cosin")))


@pytest.mark.parametrize(("examples", "steps", "log"), [(16, 4, 1), (8000, 2000, 10)])
def test_the_pace_of_the_log_follows_the_number_of_steps_and_that_of_checkpoints_the_time(
    examples: int, steps: int, log: int
) -> None:
    from types import SimpleNamespace

    from pytest_finetune.training.arguments import pace

    config = SimpleNamespace(
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=-1,
        num_train_epochs=2.0,
        world_size=1,
        save_strategy="steps",
    )
    for said in ({"save_steps": 7}, {"save_strategy": "epoch"}):
        pace(config, examples, said)
        assert config.save_strategy == "steps"
    pace(config, examples, {})
    assert (config.logging_steps, config.save_strategy) == (log, "no")
    shared = SimpleNamespace(**vars(config) | {"gradient_accumulation_steps": 1, "world_size": 2})
    pace(shared, examples, {})
    assert shared.logging_steps == log, "two processes take as many steps"
    assert steps == 2 * examples // 8
