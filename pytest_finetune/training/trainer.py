"""TRL's SFTTrainer with two things more: a stop at the first broken loss, and checkpoints that are sealed."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PrinterCallback, Trainer, TrainerCallback
from trl import SFTTrainer

from pytest_finetune.clock import Clock
from pytest_finetune.training.best import Best, is_due
from pytest_finetune.training.checkpoints import Pace, keep_newest, seal, whole_steps
from pytest_finetune.training.coverage import Reached
from pytest_finetune.training.full_disk import write_or_make_room
from pytest_finetune.training.held_out import HeldOut, Unseen, held_out_loss
from pytest_finetune.training.memory_error import in_use, naming_the_batch
from pytest_finetune.training.processes import ranks, sharing
from pytest_finetune.training.request import Meter, Progress, TrainingError
from pytest_finetune.training.tokenised import listed

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from torch.utils.data import Sampler
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments


class SealingTrainer(SFTTrainer):  # type: ignore[misc]
    """An SFTTrainer that marks whole checkpoints and never trains on after a loss that is not finite.

    `identity` names the training in its checkpoints, `write` puts the adapter of a model into a folder, `places` maps
    the token ids of a row to its place, and `clock` counts what is not the steps themselves. With `shard` the processes
    share one model out.
    """

    train_dataset: Dataset

    def __init__(
        self,
        *,
        identity: str,
        write: Callable[[PreTrainedModel, Path], None],
        places: Mapping[tuple[int, ...], str],
        clock: Clock,
        shard: bool,
        **settings: object,
    ) -> None:
        self.shard = shard  # asked for while the trainer is made
        super().__init__(**settings)
        self._identity, self._write, self._places = identity, write, places
        self.clock = clock
        self.best: Best | None = None  # set where the adapter is chosen on development rows
        self.step_loss = 0.0
        self.tokens_seen = 0
        self.stopped = False
        self.reached = Reached()
        self._rows = 0  # set when they are shared
        # Older checkpoints go once the newest is sealed; Trainer itself would drop them a moment too early.
        self._keep, self.args.save_total_limit = max(1, self.args.save_total_limit or 1), None
        # With the progress bar off, Trainer prints its log to stdout instead.
        self.remove_callback(PrinterCallback)

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator, and have it share the model out where that was asked for."""
        super().create_accelerator_and_postprocess()
        if self.shard:
            sharing.share_out(self.accelerator, self.model)
            self.is_fsdp_enabled = True

    @property
    def writes(self) -> bool:
        """Tell whether this process takes part when weights are written: the first alone, unless each has its share."""
        return self.shard or ranks.is_first()

    def training_step(
        self, model: PreTrainedModel, inputs: dict[str, Tensor], *rest: object, **named: object
    ) -> Tensor:
        """Run one forward and backward; TrainingError when the loss is not finite."""
        ids = inputs["input_ids"]
        mask = inputs.get("attention_mask")
        with naming_the_batch(lambda: self.places_of(ids.tolist(), mask), ids.shape[-1]):
            loss: Tensor = super().training_step(model, inputs, *rest, **named)
        self.reached.look(self.model)
        value = float(loss)
        if not math.isfinite(value):
            raise TrainingError(self._not_finite(value, ids.tolist(), mask))
        self.step_loss += value
        self.tokens_seen += int(ids.numel() if mask is None else mask.sum())
        return loss

    def places_of(self, batch: Sequence[Sequence[int]], mask: Tensor | None) -> list[str]:
        """Return the places of a batch's rows."""
        lengths = [len(ids) for ids in batch] if mask is None else mask.sum(dim=1).tolist()
        ids = [tuple(row[:length]) for row, length in zip(batch, lengths, strict=True)]
        return [self._places.get(row, "a row packed with others") for row in ids]

    def _not_finite(self, value: float, batch: Sequence[Sequence[int]], mask: Tensor | None) -> str:
        places = self.places_of(batch, mask)
        return (
            f"the loss is {value} at step {self.state.global_step + 1} of {self.state.max_steps}: "
            f"the training was stopped and nothing stored\n  rows in the batch:\n{listed(places)}\n"
            f"  {self._likely_cause()}"
        )

    def _likely_cause(self) -> str:
        """Say what to change: the learning rate, or the base where no step had been taken."""
        if self.state.global_step:
            rate = self.args.learning_rate if self.optimizer is None else self.optimizer.param_groups[0]["lr"]
            return (
                f"the learning rate was {rate:g}: lower training.learning_rate (by ten is a good first try), "
                "or warm up (training.warmup_steps)"
            )
        weights = self.model.named_parameters()
        broken = (
            name for name, weight in weights if not bool(sharing.held_here(weight.detach()).isfinite().all())
        )
        if name := next(broken, None):
            named = name.removeprefix("base_model.model.").replace(".base_layer", "")
            return f"no step had been taken: {named} of the base is not finite: download the base again"
        return "no step had been taken: the base itself gives it on these rows, whatever the learning rate"

    def share_rows(self) -> None:
        """Deal the rows out to all processes so that each optimizer step sees those that one process would see."""
        if self.args.world_size > 1:
            self._rows = len(self.train_dataset)
            self.train_dataset = ranks.with_filler(self.train_dataset)

    def _get_train_sampler(self, *given: object) -> Sampler[int]:
        if self.args.world_size == 1:
            own: Sampler[int] = super()._get_train_sampler(*given)
            return own
        dealt = self.args.per_device_train_batch_size * self.args.world_size
        seed = self.args.data_seed
        return ranks.SharedOrder(self._rows, dealt, seed, lambda: int(self.state.epoch or 0))

    def _save(self, output_dir: str | None = None, state_dict: object = None) -> None:
        # Trainer would add the tokenizer, a model card and a pickle of its arguments; nothing reads them.
        self._write(self.model, Path(output_dir or self.args.output_dir))

    def _save_checkpoint(self, model: PreTrainedModel, trial: object) -> None:
        with self.clock.spent_on("checkpoints"):
            self._write_checkpoint(model, trial)

    def _write_checkpoint(self, model: PreTrainedModel, trial: object) -> None:
        output = Path(self.args.output_dir)

        def write() -> None:
            # Not SFTTrainer's own: that one adds a second model card.
            Trainer._save_checkpoint(self, model, trial)

        if self.shard:
            write()  # all write together: one alone cannot write once more
        else:
            write_or_make_room(write, lambda: keep_newest(output), output)
        ranks.wait()  # until everybody's random state lies there
        if not ranks.is_first():
            return
        seal(output / f"checkpoint-{self.state.global_step}", self._identity)
        for step in whole_steps(output)[: -self._keep]:
            shutil.rmtree(output / f"checkpoint-{step}", ignore_errors=True)
        if self.best is not None:
            self.best.forget_others(self.state.log_history)


class Watch(TrainerCallback):  # type: ignore[misc]
    """Tells the progress after every optimizer step, and ends the training there when `stop` says so.

    At the end of each epoch the loss on the held-out rows joins the trainer's log; that on the development rows then,
    and after each tenth of the steps. `pace` says when a checkpoint is due; without it the trainer's arguments do.
    """

    def __init__(
        self,
        tell: Callable[[Progress], None],
        stop: Callable[[], bool],
        rows: Unseen,
        pace: Pace | None = None,
    ) -> None:
        self._tell, self._stop, self._rows, self._pace = tell, stop, rows, pace
        self._meter: Meter | None = None
        self.trainer: SealingTrainer | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Start the clock, once a model that was to be shared out is."""
        assert self.trainer is not None
        if self.trainer.shard:
            sharing.check_shared(self.trainer.model)
        self._meter = Meter(time.monotonic(), state.global_step)
        if self._pace:
            self._pace.begin()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        """Tell the progress; on a stop, ask for a checkpoint of this very step.

        Held-out rows come before the checkpoint of the step, so that it holds their loss.
        """
        assert self.trainer is not None
        assert self._meter is not None
        loss, seen = ranks.summed([self.trainer.step_loss, self.trainer.tokens_seen], args.device)
        self.trainer.step_loss = 0.0
        reading = self._meter.read(
            now_s=time.monotonic(),
            step=state.global_step,
            steps=state.max_steps,
            tokens=seen,
            loss=loss / ranks.count(),  # each process's is scaled up by their number
            epoch=float(state.epoch or 0.0),
        )
        memory = in_use(str(args.device))
        self._tell(dataclasses.replace(reading, memory_bytes=memory, unseen_loss=self._look(state)))
        due = self._pace is not None and self._pace.due(self.trainer.clock.seconds.get("checkpoints", 0.0))
        # All end, and all save, after the same step.
        asked, wanted = ranks.summed([self._stop(), due], args.device)
        self.trainer.stopped = asked > 0
        if self.trainer.stopped:
            control.should_training_stop = True
        if self.trainer.stopped or wanted:
            control.should_save = True
        return control

    def _look(self, state: TrainerState) -> float | None:
        """Take the losses that are due on rows that are not trained on, keep the best adapter, return the last loss."""
        assert self.trainer is not None
        loss = None
        ended = float(state.epoch or 0.0).is_integer() or state.global_step == state.max_steps
        if self._rows.held_out.examples and ended:
            loss = self._add(state, "held_out_loss", self._rows.held_out)
        if self._rows.dev.examples and (ended or is_due(state.global_step, state.max_steps)):
            loss = self._add(state, "dev_loss", self._rows.dev)
            if self.trainer.best is not None and self.trainer.writes:
                self.trainer.best.consider(state.log_history)
        return loss

    def _add(self, state: TrainerState, name: str, rows: HeldOut) -> float:
        assert self.trainer is not None
        with self.trainer.clock.spent_on("held-out loss"):
            loss = held_out_loss(self.trainer, rows)
        state.log_history.append({"step": state.global_step, "epoch": float(state.epoch or 0.0), name: loss})
        return loss
