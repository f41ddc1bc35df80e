"""What the run did: training with its curve, memory against the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Child, Html, element, facts, join, table
from pytest_finetune.record.views.page.sections.evidence import badge
from pytest_finetune.record.views.page.sections.reuse import elsewhere, retrained
from pytest_finetune.wording import counted, duration, figure, size

SERIES: Final = {"training loss": ("log", "loss"), "held-out loss": ("held_out_loss", "loss")}


def training(experiment: Json) -> Html:
    """The training or the adapter that was reused, with the loss over its steps."""
    done = reading.part(experiment, "training")
    if not done:
        return element("p", "Nothing was trained or reused in this run.", class_="ft-missing")
    seconds = duration(reading.number(done, "seconds"))
    how = f"adapter reused; its training took {seconds}" if done.get("reused") else f"trained in {seconds}"
    trainable, of = reading.number(done, "trainable"), reading.number(done, "parameters")
    share = f" ({100 * trainable / of:.2g}%)" if trainable and of else ""
    digest, path = reading.text(done, "adapter_sha256"), reading.text(done, "adapter_path")
    known = facts(
        [
            ("how", how),
            ("steps", counted(reading.number(done, "steps"), "step")),
            ("final loss", figure(reading.number(done, "final_loss"))),
            ("trainable parameters", f"{trainable:,.0f} of {of:,.0f}{share}" if trainable and of else None),
            ("adapter", element("code", path) if path else None),
            ("adapter, sha256", element("code", digest) if digest else None),
        ]
    )
    return join([elsewhere(done), _curve(done), known, retrained(done)])


def _curve(done: Json) -> Html:
    logs = {name: (reading.parts(done, log), key) for name, (log, key) in SERIES.items()}
    series = {name: line for name, (log, key) in logs.items() if (line := _line(log, key))}
    if not series:
        return element("p", "No loss was logged.", class_="ft-missing")
    said = [
        f"{name} {figure(line[0][1])} at step {line[0][0]:g}, {figure(line[-1][1])} at step {line[-1][0]:g}"
        for name, line in series.items()
    ]
    values = (reading.number(step, key) for log, key in logs.values() for step in log)
    lost = sum(value is not None and not math.isfinite(value) for value in values)
    if lost:
        said.append(f"{counted(lost, 'value')} not finite and not drawn")
    label = "; ".join(said)
    rows = [
        [f"{step:g}", *(_at(line, step) for line in series.values())]
        for step in _steps(list(series.values()))
    ]
    numbers = element(
        "details", element("summary", "the numbers"), table(["step", *series], rows, "Loss by step")
    )
    return element(
        "figure", svg.curve(series, label), element("figcaption", f"{label[0].upper()}{label[1:]}."), numbers
    )


def _line(log: Sequence[Json], key: str) -> list[tuple[float, float]]:
    """Collect the finite points of one series; a log entry without a step takes its place in the log."""
    points = []
    for place, entry in enumerate(log, start=1):
        step, value = reading.number(entry, "step"), reading.number(entry, key)
        if value is not None and math.isfinite(value):
            points.append((float(place if step is None or not math.isfinite(step) else step), float(value)))
    return points


def _steps(lines: Sequence[Sequence[tuple[float, float]]]) -> list[float]:
    """Choose the steps whose numbers are written out: at most 40 of each line, spread evenly over a long one."""
    chosen: set[float] = set()
    for line in lines:
        steps = sorted({step for step, _ in line})
        spread = steps if len(steps) <= 40 else [steps[round(at * (len(steps) - 1) / 39)] for at in range(40)]
        chosen.update(spread)
    return sorted(chosen)


def _at(line: Sequence[tuple[float, float]], step: float) -> str:
    return next((figure(value) for at, value in line if at == step), "–")


def memory(experiment: Json) -> Html:
    """The predicted and the measured peak against the budget, and what would make it smaller."""
    plan = reading.part(experiment, "memory")
    if not plan:
        return element("p", "Memory was not planned in this run.", class_="ft-missing")
    predicted, measured = (
        reading.number(plan, key) for key in ("predicted_peak_bytes", "measured_peak_bytes")
    )
    budget, name = reading.number(plan, "budget_bytes"), reading.text(plan, "budget_name", "unnamed card")
    verdict = element(
        "p",
        _fits(reading.text(plan, "fits", "not judged")),
        f" {size(predicted)} predicted, the budget is {size(budget)} ({name})",
        f"; {size(measured)} measured" + _error(predicted, measured) if measured is not None else None,
        ".",
    )
    notes = [element("li", str(note)) for note in reading.listed(plan, "notes")]
    return join(
        [
            verdict,
            _bars(plan, predicted, measured, budget),
            _remedies(plan),
            element("ul", *notes) if notes else None,
        ]
    )


def _fits(word: str) -> Html:
    outcome = {"fits": "passed", "tight": "undecided", "does not fit": "failed"}.get(word, word)
    symbol = badge(outcome)
    return Html(symbol.replace(f" {outcome}<", f" {word}<")) if outcome != word else symbol


def _error(predicted: float | None, measured: float) -> str:
    if predicted is None or not measured or not math.isfinite(predicted / measured):
        return ""
    return f", the prediction is off by {100 * (predicted / measured - 1):+.1f}%"


def _bars(plan: Json, predicted: float | None, measured: float | None, budget: float | None) -> Html | None:
    breakdown = reading.part(plan, "breakdown")
    counts = ((str(name), reading.number(breakdown, name)) for name in breakdown)
    finite = [(name, float(count)) for name, count in counts if count is not None and math.isfinite(count)]
    parts = dict(sorted((part for part in finite if part[1] > 0), key=lambda part: (-part[1], part[0])))
    peaks = [("predicted", predicted), ("measured", measured)]
    known = [(name, peak) for name, peak in peaks if peak is not None and math.isfinite(peak)]
    most = (
        max((value for value in (budget, *(peak for _, peak in known)) if value is not None), default=0.0)
        * 1.02
    )
    if most <= 0:
        return None
    limit = None if budget is None else budget / most
    bars = [part for name, peak in known for part in (element("span", name), svg.level(peak / most, limit))]
    if parts:
        made_of = [
            (name, f"ft-part ft-part-{place % 10}", count)
            for place, (name, count) in enumerate(parts.items())
        ]
        bars += [element("span", "made of"), svg.shares(made_of)]
    key = [
        element("li", svg.swatch(place), f" {name} ", element("span", size(count), class_="ft-muted"))
        for place, (name, count) in enumerate(parts.items())
    ]
    caption = (
        element("p", "The dashed line is the budget.", class_="ft-muted ft-apart")
        if budget is not None
        else None
    )
    return join([element("div", *bars, class_="ft-bars"), element("ul", *key, class_="ft-keys"), caption])


def _remedies(plan: Json) -> Html | None:
    rows: list[list[Child]] = [
        [
            reading.text(remedy, "change", "unnamed change"),
            size(reading.number(remedy, "peak_bytes")),
            badge("passed") if remedy.get("enough") else "not enough alone",
        ]
        for remedy in reading.parts(plan, "remedies")
    ]
    return (
        table(["one change", "predicted peak", "enough"], rows, "Single changes, each planned anew")
        if rows
        else None
    )
