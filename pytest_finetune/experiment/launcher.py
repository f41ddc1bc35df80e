"""How several processes share the effective batch of one: accumulation is divided first, then the batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pytest_finetune.experiment.records import Experiment, Training

_SPREADS: Final = (2, 4, 8)
SHARDED_OPTIMIZERS: Final = ("adamw_torch", "adamw_torch_fused", "sgd")
"""Those of torch, which update the shares of weights that are shared out; bitsandbytes' know whole tensors alone."""


class Share(NamedTuple):
    """What each process does for one optimizer step: rows at once, and how often."""

    batch: int
    accumulation: int


def share_of(training: Training) -> Share:
    """Return the share of each process; all shares together are the effective batch of one process alone.

    Raises ValueError when the processes cannot share it.

    >>> from pytest_finetune.experiment.records import Launcher, Training
    >>> share_of(Training(gradient_accumulation_steps=8, launcher=Launcher(processes=2)))
    Share(batch=1, accumulation=4)
    >>> share_of(Training(per_device_train_batch_size=4, gradient_accumulation_steps=2, launcher=Launcher(processes=4)))
    Share(batch=2, accumulation=1)
    """
    processes, batch = training.launcher.processes, training.per_device_train_batch_size
    of_accumulation = math.gcd(training.gradient_accumulation_steps, processes)
    of_batch = processes // of_accumulation
    if batch % of_batch:
        raise ValueError(unshared(training))
    return Share(batch // of_batch, training.gradient_accumulation_steps // of_accumulation)


def unshared(training: Training) -> str | None:
    """Say why the processes cannot share the effective batch, and the nearest values with which they can."""
    processes, batch = training.launcher.processes, training.per_device_train_batch_size
    accumulation = training.gradient_accumulation_steps
    rows = batch * accumulation
    if rows % processes == 0:
        return None
    counts = [count for count in range(1, rows + 1) if rows % count == 0]
    step = processes // math.gcd(batch, processes)
    fewer = accumulation // step * step
    works = [str(near) for near in (fewer, fewer + step) if near]
    return (
        f"{processes} processes cannot share an effective batch of {rows} rows (per_device_train_batch_size {batch} "
        f"x gradient_accumulation_steps {accumulation}): write {_around(counts, processes)} processes, "
        f"or gradient_accumulation_steps {' or '.join(works)}"
    )


def unshardable(experiment: Experiment) -> Iterator[str]:
    """Say why the processes cannot share one model out among them, a line for each reason."""
    training = experiment.training
    if training.launcher.processes == 1:
        yield "one process has nobody to share the model out to: write launcher: {processes: 2}, one for each card"
    if experiment.quantization != "none":
        yield (
            f"a base in {experiment.quantization} is not shared out: bitsandbytes keeps it in whole bytes, which "
            "accelerate leaves whole on each card; write quantization: none, or leave shard out"
        )
    if training.packing:
        yield (
            "packed rows are checked on a whole model before the first step, which no card need hold: write packing: "
            "false, or leave shard out"
        )
    if training.optim not in SHARDED_OPTIMIZERS:
        yield (
            f"optim {training.optim} does not update weights that are shared out: write one of torch's own "
            f"({', '.join(SHARDED_OPTIMIZERS)})"
        )


def shared_out(experiment: Experiment, cards: int) -> Iterator[Experiment]:
    """Yield the experiment with its model shared out over more processes than now, up to so many; the fewest first."""
    training = experiment.training
    now = training.launcher.processes if training.shard else 1
    for processes in sorted({*_SPREADS, training.launcher.processes}):
        if now < processes <= cards:
            launcher = replace(training.launcher, processes=processes)
            wider = replace(experiment, training=replace(training, launcher=launcher, shard=True))
            if unshared(wider.training) is None and not any(unshardable(wider)):
                yield wider


def _around(counts: list[int], wanted: int) -> str:
    below = [count for count in counts if count < wanted]
    above = [count for count in counts if count > wanted]
    return " or ".join(str(near) for near in (*below[-1:], *above[:1]))


def shared_words(training: Training) -> str:
    """Say what the processes share, for the record.

    >>> from pytest_finetune.experiment.records import Launcher, Training
    >>> shared_words(Training(gradient_accumulation_steps=8, launcher=Launcher(processes=2)))
    'gradient_accumulation_steps 8 -> 4 each, effective batch still 8'
    """
    share = share_of(training)
    batch, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    changed = {
        "gradient_accumulation_steps": (accumulation, share.accumulation),
        "per_device_train_batch_size": (batch, share.batch),
    }
    words = [f"{name} {all_} -> {each} each" for name, (all_, each) in changed.items() if all_ != each]
    return ", ".join([*words, f"effective batch still {batch * accumulation}"])
