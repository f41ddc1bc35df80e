"""From an experiment to `SFTConfig`: our keys by name, the user's `training.sft` checked by name and type."""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from transformers import SchedulerType
from transformers.trainer_utils import SaveStrategy
from transformers.training_args import OptimizerNames
from trl import SFTConfig

from pytest_finetune.experiment import Experiment
from pytest_finetune.experiment.launcher import share_of
from pytest_finetune.training.model import compute_dtype
from pytest_finetune.training.request import TrainingError
from pytest_finetune.training.sft_arguments import unknown
from pytest_finetune.wording import nearest
from pytest_finetune.yamlfile import Json, JsonTree

_NAMED: Final[Mapping[str, type[enum.Enum]]] = {"optim": OptimizerNames, "lr_scheduler_type": SchedulerType}

_LOG_POINTS: Final = 200
# Gradients are shared out after each backward pass: until the last of a step each process would hold all of them.
_EACH_BATCH: Final = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}


def sft_config(experiment: Experiment, checkpoints: Path, device: str) -> SFTConfig:
    """Return the trainer's arguments; TrainingError names what is wrong in `training.sft`."""
    training, share = experiment.training, share_of(experiment.training)
    check_passthrough(training.sft)
    _check_named("optim", training.optim)
    _check_named("lr_scheduler_type", training.lr_scheduler_type)
    dtype = compute_dtype(device)
    settings: JsonTree = {
        "output_dir": str(checkpoints),
        "max_length": training.max_seq_length,
        "per_device_train_batch_size": share.batch,
        "gradient_accumulation_steps": share.accumulation,
        "learning_rate": training.learning_rate,
        "num_train_epochs": training.num_train_epochs,
        "max_steps": -1 if training.max_steps is None else training.max_steps,
        "save_total_limit": training.save_total_limit,
        "seed": training.seed,
        "data_seed": training.seed,
        "gradient_checkpointing": training.gradient_checkpointing,
        "optim": training.optim,
        "lr_scheduler_type": training.lr_scheduler_type,
        "warmup_steps": training.warmup_steps,
        "packing": training.packing,
        "full_determinism": training.full_determinism,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device != "cpu",
        "save_strategy": "steps",
        "logging_strategy": "steps",
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        # The mean is over the tokens of all processes; older releases of transformers leave that off.
        **({"average_tokens_across_devices": True} if training.launcher.processes > 1 else {}),
        **({"accelerator_config": _EACH_BATCH} if training.shard else {}),
        **training.sft,
    }
    try:
        config = SFTConfig(**settings)
    except (ValueError, TypeError, ImportError) as error:
        raise TrainingError(f"the trainer refuses the experiment's training settings: {error}") from error
    if training.shard and dtype == torch.float16:
        raise TrainingError(
            f"training.shard computes in bfloat16, which {device} has not: leave shard out, or train on newer cards"
        )
    if config.world_size != training.launcher.processes:
        raise TrainingError(
            f"the launcher started {config.world_size} processes that know of one another, not "
            f"{training.launcher.processes}: nothing was trained"
        )
    if device.startswith("cuda") and config.world_size == 1:
        _pin(config, torch.device(device))
    return config


def _pin(config: SFTConfig, device: torch.device) -> None:
    """Keep the trainer on one card: with several visible it would spread the batch over all of them."""
    device = torch.device("cuda", device.index if device.index is not None else torch.cuda.current_device())
    torch.cuda.set_device(device)
    _ = config.device
    config.__dict__["_setup_devices"] = device
    config._n_gpu = 1


def pace(config: SFTConfig, examples: int, given: Json) -> None:
    """Set how often to log from the number of steps, and that time says when to save, unless `given` says so."""
    batches = math.ceil(examples / (config.per_device_train_batch_size * config.world_size))
    per_epoch = max(1, math.ceil(batches / config.gradient_accumulation_steps))
    steps = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * per_epoch)
    if "logging_steps" not in given:
        config.logging_steps = max(1, steps // _LOG_POINTS)
    if saved_by_time(given):
        config.save_strategy = SaveStrategy.NO


def saved_by_time(given: Json) -> bool:
    """Tell whether the user leaves the pace of the checkpoints to us."""
    return not {"save_steps", "save_strategy"} & given.keys()


def check_passthrough(given: Json) -> None:
    """Raise TrainingError for a key of `training.sft` that is unknown, ours, or of the wrong type."""
    fields = {field.name: field for field in dataclasses.fields(SFTConfig) if field.init}
    hints = typing.get_type_hints(SFTConfig)
    problems = [f"{name}: {text}" for name, text in unknown(given, fields)] + [
        problem
        for name, value in given.items()
        if name in fields and (problem := _problem(name, value, fields, hints)) is not None
    ]
    if problems:
        raise TrainingError("\n".join(f"training.sft.{problem}" for problem in problems))


def _check_named(key: str, word: str) -> None:
    """Raise TrainingError when transformers knows no optimizer or schedule of that name."""
    known = [member.value for member in _NAMED[key]]
    if word not in known:
        guess = nearest(word, known)
        raise TrainingError(
            f"training.{key}: found {word!r}" + (f"; did you mean {guess!r}?" if guess else "") + "\n"
            f"  known: {', '.join(known)}"
        )


def _problem(
    name: str, value: object, fields: Mapping[str, dataclasses.Field[Any]], hints: Json
) -> str | None:
    choices = fields[name].metadata.get("choices")
    if choices and value not in choices:
        return f"{name}: found {value!r}, allowed: {', '.join(map(repr, choices))}"
    if not accepts(hints[name], value):
        return f"{name}: found {value!r} ({type(value).__name__}), allowed: {_spelled(hints[name])}"
    return None


def accepts(hint: object, value: object) -> bool:
    """Tell whether a value read from YAML may stand where `hint` is asked for.

    A whole number passes for a float, text for an enumeration's value; true and false are no numbers.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(accepts(choice, value) for choice in inner)
    if origin is typing.Literal:
        return value in inner
    if origin is not None:
        return _accepts_container(origin, inner, value)
    if hint is None or hint is type(None):
        return value is None
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(hint, type) and isinstance(value, hint)


def _accepts_container(origin: type, inner: Sequence[object], value: object) -> bool:
    if not isinstance(value, origin):
        return False
    if isinstance(value, Mapping) and len(inner) == 2:
        return all(accepts(inner[0], key) and accepts(inner[1], item) for key, item in value.items())
    if isinstance(value, list) and inner:
        return all(accepts(inner[0], item) for item in value)
    return True


def _spelled(hint: object) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_spelled(choice) for choice in typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return ", ".join(repr(member.value) for member in hint)
    if hint is type(None):
        return "null"
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
