"""What a run worked with, a line each: title, data, memory, training, runtimes, drift, power."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pytest_finetune.record import recipes, remarks
from pytest_finetune.record.inputs import Finding
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.tables import fits_word, peaks, time_rows, training_row, whole_time
from pytest_finetune.record.views.terminal.layout import Line, fit, wrapped
from pytest_finetune.wording import counted, figure, one_line, size

MOST_FORMATS: Final = 3
MOST_TIMES: Final = 4
MOST_RUNTIMES: Final = 8
MOST_NOTES: Final = 3


def fact_lines(experiment: RecordedExperiment, columns: int) -> list[Line]:
    """Name the experiment, then what it worked with."""
    drift = one_line(remarks.drift(experiment.drift, brief=True))
    given = experiment.training.notes[:MOST_NOTES] if experiment.config.raw.get("trained") else ()
    further = [
        *(("adapter", one_line(note), "yellow") for note in given),
        ("replayed", experiment.training.replay.words if experiment.training.replay else "", ""),
        ("reused", remarks.reused(experiment.training), "yellow"),
        ("learning", remarks.held_out_loss(experiment.training), "yellow"),
        ("retrained", remarks.retrained(experiment.training), ""),
        *(("runtimes", text, "") for text in remarks.runtimes(experiment)[:MOST_RUNTIMES]),
        *(("format", text, "") for text in remarks.formats(experiment)[:MOST_FORMATS]),
        *(("thinking", text, "yellow" if "cut" in text else "") for text in remarks.thinking(experiment)),
        *(("prompts", text, "yellow" if differ else "") for text, differ in remarks.renderings(experiment)),
        *(("merged", text, "") for text in remarks.merges(experiment)),
        *(("gguf", text, "") for text in remarks.files(experiment)),
        ("drift", drift, ""),
        ("recipe", recipes.brief(experiment), "" if experiment.recipe.word == "holds" else "yellow"),
        ("seeds", one_line(experiment.recipe.says), ""),
        ("time", _time(experiment), ""),
    ]
    told = [
        (_title(experiment), "bold"),
        (f"  data      {_data(experiment)}", ""),
        (f"  memory    {_memory(experiment)}", ""),
        (f"  training  {_training(experiment)}", ""),
        *((f"  {name:<9} {text}", markup) for name, text, markup in further if text),
    ]
    return [*(Line(fit(text, columns), markup) for text, markup in told), *_power(experiment, columns)]


def _power(experiment: RecordedExperiment, columns: int) -> list[Line]:
    """What the held-out file can show, while nothing is decided; a decision says it of its own rows."""
    power = experiment.power
    if not power or experiment.decision:
        return []
    first, *further = wrapped(one_line(power.warning or power.line), columns - 12, 4)
    lines = [f"  power     {first}", *(" " * 10 + line for line in further)]
    return [Line(line, "yellow" if power.warning else "") for line in lines]


def _title(experiment: RecordedExperiment) -> str:
    config = experiment.config
    rank = f" r{config.lora['r']}" if config.lora.get("r") is not None else ""
    method = f"{config.peft_method or 'unknown method'}{rank}"
    return one_line(f"{experiment.title}: {config.base_model or 'unknown base'} with {method}")


def _data(experiment: RecordedExperiment) -> str:
    data = experiment.data
    if not data:
        return "not read"
    train, held = (counted(data.splits[name].rows, "row") for name in ("train", "eval"))
    charter = _counts(experiment.charter.findings)
    nothing = "not checked" if data.checked is False else "no findings"
    said = f"{train} to train on, {held} held out; {_counts(data.findings) or nothing}"
    return said + (f"; charter: {charter}" if charter else "")


def _counts(found: Sequence[Finding]) -> str:
    errors, notes = (sum(one.severity == kind for one in found) for kind in ("error", "note"))
    kinds = {"error": errors, "warning": len(found) - errors - notes, "note": notes}
    return ", ".join(counted(number, kind) for kind, number in kinds.items() if number)


def _memory(experiment: RecordedExperiment) -> str:
    memory = experiment.memory
    if not memory:
        return "not planned"
    name = one_line(memory.budget_name or "unnamed card", 30)
    against = f" of {size(memory.budget_bytes)} ({name})" if memory.budget_bytes is not None else ""
    return f"{peaks(memory)}{against}: {one_line(fits_word(memory))}"


def _training(experiment: RecordedExperiment) -> str:
    training = experiment.training
    if not training:
        return "not trained"
    key = one_line(experiment.key or "without a key")[:8]
    losses = [point.loss for point in training.log if point.loss is not None]
    end = training.final_loss if training.final_loss is not None else losses[-1] if losses else None
    fall = f", loss {figure(losses[0])} -> {figure(end)}" if losses else f", loss {figure(end)}"
    took = training_row(training)
    if training.reused:
        return f"reused the adapter of key {key} ({took.steps}{fall})"
    return f"{took.steps} in {took.seconds}{fall}; adapter of key {key}"


def _time(experiment: RecordedExperiment) -> str:
    """What the run took, and the parts that it took most for."""
    parts = [f"{row.part} {row.share:.0%}" for row in time_rows(experiment.timings)[:MOST_TIMES]]
    return one_line(f"{whole_time(experiment.timings)}: {', '.join(parts)}") if parts else ""
