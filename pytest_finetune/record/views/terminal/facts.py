"""What a run worked with, a line each: title, data, memory, training, runtimes, drift, power."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_finetune.record import reading, remarks
from pytest_finetune.record.drift import drift_sentence
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.terminal.layout import Line, fit, wrapped
from pytest_finetune.wording import counted, duration, figure, one_line, size


def fact_lines(experiment: Json, columns: int) -> list[Line]:
    """Name the experiment, then what it worked with."""
    training = reading.part(experiment, "training")
    said = [Line(_title(experiment), "bold"), *map(Line, (_data(experiment), _memory(experiment)))]
    said += [Line(_training(experiment))]
    said += [Line(f"  reused    {text}", "yellow") for text in [remarks.reused(training)] if text]
    said += [Line(f"  retrained {text}") for text in [remarks.retrained(training)] if text]
    said += map(Line, _runtimes(experiment))
    drift = drift_sentence(experiment, brief=True)
    said += [Line(f"  drift     {one_line(drift)}")] if drift else []
    return [*(Line(fit(text, columns), markup) for text, markup in said), *_power(experiment, columns)]


def _power(experiment: Json, columns: int) -> list[Line]:
    """What the held-out file can show, while nothing is decided; a decision says it of its own rows."""
    power = reading.part(experiment, "power")
    if not power or experiment.get("decision"):
        return []
    warning = reading.text(power, "warning")
    said = one_line(warning or reading.text(power, "line"))
    text = f"  power     {said}"
    return [Line(line, "yellow" if warning else "") for line in wrapped(text, columns, 4)]


def _title(experiment: Json) -> str:
    config = reading.part(experiment, "config")
    lora = reading.part(config, "lora")
    method = reading.text(config, "peft_method", "unknown method")
    rank = f" r{reading.text(lora, 'r')}" if lora.get("r") is not None else ""
    name = reading.text(experiment, "task", reading.text(experiment, "name", "experiment"))
    return one_line(f"{name}: {reading.text(config, 'base_model', 'unknown base')} with {method}{rank}")


def _data(experiment: Json) -> str:
    data = reading.part(experiment, "data")
    if not data:
        return "  data      not read"
    train, held = (counted(reading.number(reading.part(data, s), "rows"), "row") for s in ("train", "eval"))
    found = _counts(reading.parts(data, "findings")) or "no findings"
    charter = _counts(reading.parts(reading.part(experiment, "charter"), "findings"))
    return f"  data      {train} to train on, {held} held out; {found}" + (
        f"; charter: {charter}" if charter else ""
    )


def _counts(found: Sequence[Json]) -> str:
    errors = sum(one.get("severity") == "error" for one in found)
    warnings = len(found) - errors
    said = [counted(errors, "error")] * bool(errors) + [counted(warnings, "warning")] * bool(warnings)
    return ", ".join(said)


def _memory(experiment: Json) -> str:
    memory = reading.part(experiment, "memory")
    if not memory:
        return "  memory    not planned"
    measured = reading.number(memory, "measured_peak_bytes")
    peak = f"{size(reading.number(memory, 'predicted_peak_bytes'))} predicted"
    peak += f", {size(measured)} measured" if measured is not None else ""
    budget = reading.number(memory, "budget_bytes")
    name = one_line(reading.text(memory, "budget_name", "unnamed card"), 30)
    against = f" of {size(budget)} ({name})" if budget is not None else ""
    return f"  memory    {peak}{against}: {one_line(reading.text(memory, 'fits', 'not judged'))}"


def _training(experiment: Json) -> str:
    training = reading.part(experiment, "training")
    if not training:
        return "  training  not trained"
    key = one_line(reading.text(experiment, "key", "without a key"))[:8]
    losses = [
        found
        for step in reading.parts(training, "log")
        if (found := reading.number(step, "loss")) is not None
    ]
    end = reading.number(training, "final_loss")
    last = end if end is not None else losses[-1] if losses else None
    fall = f", loss {figure(losses[0])} -> {figure(last)}" if losses else f", loss {figure(last)}"
    seconds = duration(reading.number(training, "seconds"))
    steps = counted(reading.number(training, "steps"), "step")
    if training.get("reused"):
        return f"  training  reused adapter {key} ({steps}{fall})"
    return f"  training  {steps} in {seconds}{fall}; adapter {key}"


def _runtimes(experiment: Json) -> list[str]:
    """How far the tuned model answers alike in each further runtime; at most two lines."""
    main = reading.primary(experiment)
    lines = []
    for match in reading.parts(experiment, "runtime_match")[:2]:
        text, rule = reading.part(match, "text"), reading.part(match, "rules", main or "")
        first, second = (one_line(reading.text(match, key, "?"), 20) for key in ("first", "second"))
        said = f"{reading.text(text, 'same')} of {reading.text(text, 'total')} texts"
        if rule:
            said += f", {reading.text(rule, 'same')} of {reading.text(rule, 'total')} scores"
        lines.append(f"  runtimes  {second} like {first}: {said}")
    return lines
