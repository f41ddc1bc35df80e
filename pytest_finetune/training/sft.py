"""Train an adapter: first the checks of rows and modules, then TRL's SFTTrainer, then the two files."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.clock import Clock
from pytest_finetune.experiment.launcher import share_of, shared_words
from pytest_finetune.fingerprint import digest, package_versions
from pytest_finetune.memory.tracer.architectures import name_backbone
from pytest_finetune.training.base import BaseSource, check_folder, source_of
from pytest_finetune.training.best import Best, best_step
from pytest_finetune.training.checkpoints import Pace, drop_others, keep_newest, newest
from pytest_finetune.training.full_disk import write_or_make_room
from pytest_finetune.training.held_out import MAX_ROWS, HeldOut, Unseen, chosen, held_out, most_rows
from pytest_finetune.training.memory_error import memory_report, peak_bytes, reset_peak
from pytest_finetune.training.packing import check_packing
from pytest_finetune.training.processes.launch import train_in_processes
from pytest_finetune.training.request import (
    Progress,
    TrainingError,
    TrainingInterrupted,
    TrainingRequest,
    TrainingResult,
)
from pytest_finetune.training.surroundings import asked_to_stop, no_dataset_bars, surroundings
from pytest_finetune.training.tokenised import (
    Room,
    Stops,
    TokenRow,
    check_room,
    check_rows,
    check_stop,
    check_trained_rows,
    check_written,
    token_figures,
    tokenise,
)
from pytest_finetune.wording import size
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig

    from pytest_finetune.data.formatting import Pair
    from pytest_finetune.memory.tracer.targets import Chosen
    from pytest_finetune.training.trainer import SealingTrainer

__all__ = ["Progress", "TrainingError", "TrainingInterrupted", "TrainingRequest", "TrainingResult", "train"]


def train(request: TrainingRequest) -> TrainingResult:
    """Train the adapter that the request asks for and write it into its folder.

    Resumes from a complete checkpoint of the same training, if there is one. The process is left as it was:
    environment, random state, log levels. Raises TrainingError for what the user can mend; TrainingInterrupted after
    Ctrl-C, once the step in progress is done and a checkpoint of it lies there.
    """
    if not request.pairs:
        raise TrainingError("there is no training row: paths.train_file is empty")
    source = source_of(request.experiment, request.base)
    if source.local:
        check_folder(Path(source.name), trust_remote_code=source.trust_remote_code)
    if request.experiment.training.launcher.processes > 1:
        return train_in_processes(request)
    with asked_to_stop() as stop:
        return train_here(request, stop.is_set)


def train_here(request: TrainingRequest, stop: Callable[[], bool]) -> TrainingResult:
    """Train in this process: alone, or with the others that a launcher has started; `stop` ends it after a step.

    Of several processes the first writes and hears the progress, and all return the same result.
    """
    source, clock = source_of(request.experiment, request.base), Clock()
    with clock.spent_on("training"), contextlib.ExitStack() as around:
        with clock.spent_on("imports"):  # transformers comes with the first of them
            around.enter_context(surroundings(offline=source.local))
            around.enter_context(no_dataset_bars())
        around.enter_context(memory_report(request))
        result = _train(request, source, clock, stop)
    return dataclasses.replace(result, seconds=sum(clock.seconds.values()), timings=clock.seconds)


def _train(
    request: TrainingRequest, source: BaseSource, clock: Clock, stop: Callable[[], bool]
) -> TrainingResult:
    with clock.spent_on("imports"):
        from pytest_finetune.training import adapter, arguments, measuring, model
        from pytest_finetune.training.processes import ranks

    max_length = request.experiment.training.max_seq_length
    model.check_trainable(source, request.experiment.peft_method)
    config = arguments.sft_config(request.experiment, request.checkpoints, request.device)
    tokenizer = model.load_tokenizer(source)
    arguments_of_template = request.experiment.prompt.chat_template_kwargs
    rows = tokenise(tokenizer, request.pairs, request.rows, arguments_of_template)
    check_rows(rows, max_length, request.max_truncated)
    reset_peak(request.device)
    whole, shared = request.experiment.peft_method == "full", request.experiment.training.shard
    # Every weight that is trained is kept in float32: small updates would vanish in 16 bits.
    with clock.spent_on("load"):
        base, said = model.load_base(
            dataclasses.replace(source, dtype="float32") if whole else source, request.device, shared=shared
        )
    check_room(rows, max_length, Room(model.context_tokens(base), model.embeddings(base)))
    model.pad_inside(tokenizer, base)
    name_backbone(base)
    check_stop(rows, Stops(model.stop_ids(base, tokenizer), tokenizer.eos_token), max_length)
    targets = None if whole else adapter.chosen_targets(base, request.experiment)
    trainer = _trainer(request, config, base, tokenizer, rows, stop, targets, clock)
    if trainer.padding_free:
        check_packing(trainer.model, trainer.data_collator, [row.ids for row in rows])
    uncovered = [] if targets is None else adapter.uncovered(trainer.model, request.experiment, targets)
    trainable, parameters = adapter.trainable_share(trainer.model)
    first = None if whole else adapter.first_weights(trainer.model, request.experiment)

    def save(folder: Path) -> None:
        if whole:
            adapter.save_whole(trainer.model, tokenizer, folder)
        else:
            adapter.save_adapter(trainer.model, request.experiment, folder, first)

    if request.dev:
        trainer.best = Best(request.checkpoints, _identity(request), save)
    with clock.spent_on("measured batch"):
        measured = measuring.measure_first(trainer, request)
    with clock.spent_on("steps"):
        resumed = _run(trainer, request)
    if ranks.is_first() and trainer.best is not None:
        trainer.best.take(trainer.state.log_history, request.folder)
    elif trainer.shard:
        save(request.folder)  # all give their shares: one alone cannot write once more
    elif ranks.is_first():
        write_or_make_room(
            lambda: save(request.folder), lambda: keep_newest(request.checkpoints), request.folder
        )
    reserved, allocated = peak_bytes(request.device)
    log = tuple(_log_entry(entry) for entry in trainer.state.log_history if "loss" in entry)
    return TrainingResult(
        folder=request.folder,
        steps=int(trainer.state.global_step),
        seconds=0.0,  # counted to the end, where it is known
        final_loss=log[-1]["loss"] if log else None,
        log=log,
        peak_bytes=ranks.largest(reserved, config.device),
        allocated_bytes=ranks.largest(allocated, config.device),
        trainable=trainable,
        parameters=parameters,
        tokens=token_figures(rows, max_length),
        resumed_from=resumed,
        notes=(*_launch_notes(request, trainer), *said, *uncovered, *trainer.reached.notes()),
        measured=measured.as_json() if measured is not None else {},
        held_out_loss=_losses(trainer, "held_out_loss"),
        dev_loss=_losses(trainer, "dev_loss"),
        kept_step=best_step(trainer.state.log_history),
    )


def _losses(trainer: SealingTrainer, name: str) -> tuple[Mapping[str, float], ...]:
    """Return what the trainer's log has of a loss on rows that are not trained on."""
    return tuple(
        {"step": entry["step"], "epoch": entry["epoch"], "loss": entry[name]}
        for entry in trainer.state.log_history
        if name in entry
    )


def _trainer(
    request: TrainingRequest,
    config: SFTConfig,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TokenRow],
    stop: Callable[[], bool],
    targets: Chosen | None,
    clock: Clock,
) -> SealingTrainer:
    from datasets import Dataset

    from pytest_finetune.training import adapter, arguments
    from pytest_finetune.training.trainer import SealingTrainer, Watch

    training, whole = request.experiment.training, request.experiment.peft_method == "full"

    def unseen(pairs: Sequence[Pair], kind: str, most: int = MAX_ROWS) -> HeldOut:
        asked = chosen(pairs, most)
        places = [f"{kind} row {number}" for number in range(1, len(asked) + 1)]
        tokens = tokenise(tokenizer, asked, places, request.experiment.prompt.chat_template_kwargs)
        return held_out(tokens, training.max_seq_length, share_of(training).batch)

    dev = unseen(request.dev, "development")
    if request.dev and not dev.examples:
        raise TrainingError(
            f"training.keep: best: no development row teaches anything within training.max_seq_length "
            f"{training.max_seq_length}: there is nothing to choose by"
        )
    beside = unseen(request.held_out, "held-out", most_rows(len(rows)))
    pace = Pace(time.monotonic) if arguments.saved_by_time(training.sft) else None
    watch = Watch(request.progress, stop, Unseen(beside, dev), pace)
    trainer = SealingTrainer(
        identity=_identity(request),
        write=lambda model, folder: (
            adapter.save_whole(model, tokenizer, folder)
            if whole
            else adapter.save_adapter(model, request.experiment, folder)
        ),
        places={row.ids[: training.max_seq_length]: row.place for row in rows},
        clock=clock,
        shard=training.shard,
        model=base,
        args=config,
        train_dataset=Dataset.from_list(_examples(request, rows)),
        processing_class=tokenizer,
        peft_config=None if targets is None else adapter.lora_config(request.experiment, targets),
        callbacks=[watch],
    )
    watch.trainer = trainer
    prepared = trainer.train_dataset
    # Packing drops the column; which rows a pack holds cannot be told any more.
    if "row" in prepared.column_names:
        written = dict(zip(prepared["row"], prepared["input_ids"], strict=True))
        check_written(rows, written, training.max_seq_length)
    if "row" in prepared.column_names and not _other_loss(training.sft):
        labels = dict(zip(prepared["row"], prepared["labels"], strict=True))
        check_trained_rows(rows, labels, training.max_seq_length)
    if not config.bf16:
        adapter.use_float32(trainer.model)
    arguments.pace(config, len(prepared), training.sft)
    trainer.share_rows()
    return trainer


def _examples(request: TrainingRequest, rows: Sequence[TokenRow]) -> list[JsonTree]:
    """Return the rows for the trainer, in tokens; as messages where TRL has to find the assistant's tokens itself."""
    sft = request.experiment.training.sft
    if sft.get("assistant_only_loss"):
        arguments = request.experiment.prompt.chat_template_kwargs
        given: JsonTree = {"chat_template_kwargs": arguments} if arguments else {}
        return [
            {"prompt": pair.prompt, "completion": pair.completion, "row": index, **given}
            for index, pair in enumerate(request.pairs)
        ]
    everything = sft.get("completion_only_loss") is False
    return [
        {
            "input_ids": row.ids,
            "labels": row.ids if everything else row.labels(len(row.ids)),
            "row": index,
        }
        for index, row in enumerate(rows)
    ]


def _launch_notes(request: TrainingRequest, trainer: SealingTrainer) -> list[str]:
    """Say what several processes shared, and what the measurement of each leaves out."""
    from pytest_finetune.training.processes import ranks, sharing

    if ranks.count() == 1:
        return []
    shared = f"{ranks.count()} processes ({ranks.backend()}): {shared_words(request.experiment.training)}"
    if trainer.shard:
        here, all_ = sharing.held_bytes(trainer.model)
        return [
            shared,
            f"the model was shared out (FSDP 2): each process held {size(here)} of {size(all_)} of weights",
            "the longest batch was not measured before: a shared model lies on its cards once the training has begun",
        ]
    measured = "the longest batch was measured in each process before they exchanged gradients: their copy comes on top"
    return [shared, *([measured] if request.device.startswith("cuda") else [])]


def _other_loss(sft: Json) -> bool:
    """Tell whether the user asked for a loss on other tokens than the completion's."""
    return sft.get("completion_only_loss") is False or bool(sft.get("assistant_only_loss"))


def _run(trainer: SealingTrainer, request: TrainingRequest) -> int | None:
    """Train to the end, from the newest whole checkpoint on; return the step that it was taken after."""
    from pytest_finetune.training.processes import ranks

    found = newest(request.checkpoints, _identity(request))
    ranks.wait()  # until everybody has looked
    if ranks.is_first():
        drop_others(request.checkpoints, found)
    trainer.train(resume_from_checkpoint=str(found.folder) if found else None)
    done, steps = trainer.state.global_step, trainer.state.max_steps
    if trainer.stopped and done < steps:
        raise TrainingInterrupted(
            f"training stopped after step {done} of {steps}; a whole checkpoint of it is stored: "
            "run the same command again and it goes on from there"
        )
    return found.step if found else None


def _identity(request: TrainingRequest) -> str:
    """Return a digest of everything that a checkpoint must agree on to be resumed from."""
    experiment = request.experiment
    training = {
        name: value for name, value in experiment.resolved["training"].items() if name != "save_total_limit"
    }
    return digest(
        {
            "training": training,
            "lora": experiment.resolved["lora"],
            "method": [experiment.peft_method, experiment.quantization],
            "base": [request.base, experiment.revision],
            **({"attention": experiment.attn_implementation} if experiment.attn_implementation else {}),
            "pairs": [pair.fields() for pair in request.pairs],
            **({"dev": [pair.fields() for pair in request.dev]} if request.dev else {}),
            "device": request.device.partition(":")[0],
            "packages": package_versions(),
        }
    )


def _log_entry(entry: JsonTree) -> dict[str, float]:
    return {name: entry[name] for name in ("step", "epoch", "loss", "learning_rate") if name in entry}
