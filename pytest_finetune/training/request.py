"""What a training is asked for and what it gives back: frozen records of the standard library alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.errors import FinetuneError

if TYPE_CHECKING:
    from pytest_finetune.data.formatting import Pair
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.memory.measure import Fit


class TrainingError(FinetuneError):
    """The training cannot start or cannot go on; the message is complete and is for the user."""


class TrainingInterrupted(KeyboardInterrupt):
    """The user stopped the training; the message says where it will go on."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One optimizer step done: `loss` is None before the first is known, times are in seconds.

    `memory_bytes` is what the card holds reserved, on a CPU the process's resident memory; None where it is not known.
    `unseen_loss` is the loss on the development rows, else on the held-out rows, where it was taken after this step.
    """

    step: int
    steps: int
    loss: float | None
    seconds: float
    eta_s: float
    tokens_per_s: float | None
    epoch: float
    memory_bytes: int | None = None
    unseen_loss: float | None = None


@dataclass(frozen=True, slots=True)
class Meter:
    """Turns counts of this process into `Progress`; a resumed run had `first_step` behind it at `started_s`."""

    started_s: float
    first_step: int

    def read(
        self, *, now_s: float, step: int, steps: int, tokens: float, loss: float | None, epoch: float
    ) -> Progress:
        """Return the progress after `step` of `steps`, `tokens` seen by this process.

        The time left is that of the remaining steps at the mean pace of this process.
        """
        seconds = max(0.0, now_s - self.started_s)
        done = step - self.first_step
        left = seconds / done * (steps - step) if done > 0 else 0.0
        speed = tokens / seconds if seconds > 0 and tokens > 0 else None
        return Progress(step, steps, loss, seconds, left, speed, epoch)


def _unheard(_: Progress) -> None:
    """Drop the progress: nobody listens."""


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """Everything that a training needs.

    `pairs` and `rows` are parallel: what is trained on, and its place (``file:line``) for messages. `base` is
    a folder or a hub id. The adapter is written into `folder` (made when missing), checkpoints into
    `checkpoints`. `max_truncated` rows may be longer than ``training.max_seq_length``; they never teach the
    stop token. `fit` is the card to stay within and the memory plan, None where there is neither.
    `held_out` is never trained on: its loss is taken after each epoch, for the record alone. On `dev` the adapter is
    chosen where ``training.keep`` is best; it is empty otherwise.
    """

    experiment: Experiment
    pairs: tuple[Pair, ...]
    rows: tuple[str, ...]
    base: str
    folder: Path
    checkpoints: Path
    device: str = "cpu"
    progress: Callable[[Progress], None] = field(default=_unheard, repr=False)
    max_truncated: int = 0
    fit: Fit | None = None
    held_out: tuple[Pair, ...] = ()
    dev: tuple[Pair, ...] = ()

    @property
    def seed(self) -> int:
        """The seed of everything random: the adapter's first weights, the order of the rows, dropout."""
        return self.experiment.training.seed

    def __post_init__(self) -> None:
        """Check that every pair has its place."""
        if len(self.pairs) != len(self.rows):
            raise ValueError(f"{len(self.pairs)} pairs but {len(self.rows)} places")


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training gave: the folder of its adapter, its log, its cost.

    `log` has one entry a logged step: `step`, `epoch`, `loss`, `learning_rate`. `peak_bytes` is what the
    accelerator reserved at most, `allocated_bytes` what tensors took of it; both None on the CPU. `tokens`
    counts the training rows: `p50`, `p95`, `max` (before truncation), `truncated`, `supervised`. `notes` are
    sentences for the record. `measured` holds the peaks of the longest batch before the training:
    `measured_peak_bytes` (of the process), `measured_allocated_bytes`, `measured_reserved_bytes`; empty if unmeasured.
    `held_out_loss` has one entry an epoch: `step`, `epoch`, `loss`; `dev_loss` one a look at the development rows,
    and `kept_step` is the step whose adapter was kept. `timings` are the seconds of the training's parts.
    """

    folder: Path
    steps: int
    seconds: float
    final_loss: float | None
    log: tuple[Mapping[str, float], ...]
    peak_bytes: int | None = None
    trainable: int | None = None
    parameters: int | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    allocated_bytes: int | None = None
    resumed_from: int | None = None
    notes: tuple[str, ...] = ()
    measured: Mapping[str, int] = field(default_factory=dict)
    held_out_loss: tuple[Mapping[str, float], ...] = ()
    dev_loss: tuple[Mapping[str, float], ...] = ()
    kept_step: int | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
