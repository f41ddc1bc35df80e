"""Before the first step on a card: two real steps of the longest batch, and a refusal when they do not fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from pytest_finetune.memory.hardware import nvidia
from pytest_finetune.memory.hardware.cards import UNKNOWN
from pytest_finetune.memory.measure import (
    CudaMeter,
    Measured,
    Meter,
    TooLargeError,
    measure_longest,
    refuse_unless_fits,
)
from pytest_finetune.training.memory_error import naming_the_batch
from pytest_finetune.training.processes import ranks
from pytest_finetune.training.request import TrainingError, TrainingRequest

if TYPE_CHECKING:
    from trl import SFTConfig

    from pytest_finetune.training.trainer import SealingTrainer


def measure_first(trainer: SealingTrainer, request: TrainingRequest) -> Measured | None:
    """Measure the longest batch where the device counts its memory, else return None.

    A model that is shared out is not measured: it lies on the cards only once the training has begun.
    Processes that train together measure together, each on its card, and the largest figures count for all of them.
    Weights, random states and the trainer are as before afterwards. Raises TrainingError when the measurement does not
    fit the budget, torch.OutOfMemoryError when not even the two steps do.
    """
    meter = None if trainer.shard else meter_of(request)
    if meter is None:
        return None
    with _longest_step(trainer) as step:
        measured = _of_all(measure_longest(step.run, step.parameters, meter), trainer.args.device)
    if request.fit is not None:
        try:
            refuse_unless_fits(measured, request.fit)
        except TooLargeError as error:
            raise TrainingError(str(error)) from None
    return measured


def _of_all(measured: Measured, device: torch.device) -> Measured:
    """Return the largest of each figure over the processes, so that all of them go on, or none."""
    figures = (measured.allocated, measured.reserved, measured.process)
    return Measured(*(ranks.largest(figure, device) or 0 for figure in figures))


def meter_of(request: TrainingRequest) -> Meter | None:
    """Return what counts the memory of the request's device; None where nothing does."""
    if not request.device.startswith("cuda"):
        return None
    here = nvidia.card(int(request.device.partition(":")[2] or 0))
    budget = here or (request.fit.budget if request.fit is not None else None)
    return CudaMeter(request.device, (budget.family if budget else UNKNOWN).context_bytes)


@contextlib.contextmanager
def _longest_step(trainer: SealingTrainer) -> Iterator[LongestStep]:
    """Lend the trainer for a few steps; its counts, its optimizer and its mode are put back."""
    training, totals = trainer.model.training, trainer._total_train_tokens
    step = LongestStep(trainer)
    try:
        yield step
    finally:
        trainer.optimizer = None
        trainer._metrics["train"].clear()
        trainer._total_train_tokens = totals
        trainer.model.train(training)


class LongestStep:
    """The trainer's own step on its longest rows: its collator, its loss, its optimizer."""

    def __init__(self, trainer: SealingTrainer) -> None:
        self._trainer = trainer
        self.parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        rows = trainer._remove_unused_columns(trainer.train_dataset)
        lengths = [len(ids) for ids in rows["input_ids"]]
        longest = sorted(range(len(lengths)), key=lengths.__getitem__)[
            -trainer.args.per_device_train_batch_size :
        ]
        self._examples = [rows[index] for index in longest]

    def run(self) -> None:
        """Do one optimizer step; two micro-batches stand for any number of accumulated ones."""
        trainer, args = self._trainer, self._trainer.args
        _checkpoint_activations(trainer)
        trainer.model.train()
        optimizer = trainer.create_optimizer()
        ids = [example["input_ids"] for example in self._examples]
        with naming_the_batch(lambda: trainer.places_of(ids, None), max(map(len, ids))):
            for _ in range(min(2, args.gradient_accumulation_steps)):
                self._forward_backward()
            if args.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(self.parameters, args.max_grad_norm)
            optimizer.step()
        optimizer.zero_grad()

    def _forward_backward(self) -> None:
        trainer = self._trainer
        inputs = trainer._prepare_inputs(trainer.data_collator(self._examples))
        with _autocast(trainer.args):
            loss = trainer.compute_loss(trainer.model, inputs)
        del inputs
        loss.backward()


def _checkpoint_activations(trainer: SealingTrainer) -> None:
    """Do what `Trainer.train` does first, under its name of today or of yesterday."""
    if not trainer.args.gradient_checkpointing:
        return
    settings = dict(trainer.args.gradient_checkpointing_kwargs or {})
    enable = getattr(trainer.model, "activation_checkpointing_enable", None)
    if enable is not None:
        enable(activation_checkpointing_kwargs=settings or None)
    else:
        trainer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings or None)


def _autocast(args: SFTConfig) -> contextlib.AbstractContextManager[object]:
    if not (args.bf16 or args.fp16):
        return contextlib.nullcontext()
    return torch.autocast(args.device.type, dtype=torch.bfloat16 if args.bf16 else torch.float16)
