"""What the run did: training with its curve, where a reused adapter comes from, memory against the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pytest_finetune.record.inputs import LossPoint, MemoryFacts, Retrained, TrainingFacts
from pytest_finetune.record.tables import fits_word, time_rows, training_row, whole_time
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Child, Html, element, facts, folded, join, paragraph, table
from pytest_finetune.record.views.page.sections.evidence import badge
from pytest_finetune.record.views.page.sections.facts import changed_table
from pytest_finetune.wording import counted, figure, size

Line = Sequence[tuple[float, float]]


def training(done: TrainingFacts) -> Html:
    """The training or the adapter that was reused, with the loss over its steps."""
    if not done:
        return paragraph("missing", "Nothing was trained or reused in this run.")
    took, trainable, of = training_row(done), done.trainable, done.parameters
    how = f"adapter reused; its training took {took.seconds}" if done.reused else f"trained in {took.seconds}"
    share = f"{trainable:,.0f} of {of:,.0f} ({100 * trainable / of:.2g}%)" if trainable and of else None
    known = facts(
        [
            ("how", how),
            ("steps", took.steps),
            ("kept", f"step {done.kept_step}, the best on the development rows" if done.kept_step else None),
            ("replayed", done.replay.words if done.replay else None),
            ("final loss", took.loss),
            ("trainable parameters", share),
            ("adapter", element("code", done.adapter_path) if done.adapter_path else None),
            ("sha256 of its weights", element("code", done.adapter_sha256) if done.adapter_sha256 else None),
        ]
    )
    return join([_elsewhere(done), _curve(done), known, _retrained(done.retrained)])


def timings(spent: Mapping[str, float]) -> Html | None:
    """What the seconds of the run were spent on; None in a record that does not say it."""
    rows: list[list[Child]] = [[row.part, row.seconds, f"{row.share:.0%}"] for row in time_rows(spent)]
    title = f"where the time went: {whole_time(spent)}"
    return folded(title, table(["part", "time", "share"], rows, "Where the time went")) if rows else None


def _elsewhere(done: TrainingFacts) -> Html | None:
    """Say that an adapter was trained in another environment, what differs, and what that means for a promotion."""
    if done.reuse != "semantic":
        return None
    said = (
        "The adapter comes from another environment (--finetune-reuse=semantic). It is promoted only when every "
        "answer was produced in this one."
    )
    rows = changed_table(["key", "there", "here"], done.reused_from, "What differs")
    return join([paragraph("alert", element("strong", "! "), said), rows if done.reused_from else None])


def _retrained(found: Retrained) -> Html | None:
    """Say what a retraining changed against the stored adapter that it replaced."""
    if not found:
        return None
    largest, changed, digest = found.largest_difference, found.answers_changed, found.before_sha256
    apart = f"{figure(largest)} at most" if largest is not None else "tensors have other names or shapes"
    unknown = "not known, the old ones are not stored"
    answers = unknown if changed is None else f"{changed} of {counted(found.answers, 'answer')}"
    known = facts(
        [
            ("weights", "✓ equal, byte for byte" if found.same_weights else "! not equal"),
            ("largest difference of a weight", None if found.same_weights else apart),
            ("answers changed", answers),
            ("adapter before, sha256", element("code", digest) if digest else None),
        ]
    )
    return join([element("h4", "Against the stored adapter that it replaced"), known])


def _curve(done: TrainingFacts) -> Html:
    logs = {
        "training loss": done.log,
        "development loss": done.dev_loss,
        "held-out loss": done.held_out_loss,
    }
    series = {name: line for name, log in logs.items() if (line := _line(log))}
    if not series:
        return paragraph("missing", "No loss was logged.")
    said = [
        f"{name} {figure(line[0][1])} at step {line[0][0]:g}, {figure(line[-1][1])} at step {line[-1][0]:g}"
        for name, line in series.items()
    ]
    losses = (point.loss for log in logs.values() for point in log)
    lost = sum(loss is not None and not math.isfinite(loss) for loss in losses)
    if lost:
        said.append(f"{counted(lost, 'value')} not finite and not drawn")
    label = "; ".join(said)
    caption = element("figcaption", f"{label[0].upper()}{label[1:]}.")
    return element("figure", svg.curve(series, label), caption, folded("the numbers", _numbers(series)))


def _numbers(series: Mapping[str, Line]) -> Html:
    lines = list(series.values())
    rows = [[f"{step:g}", *(_at(line, step) for line in lines)] for step in _steps(lines)]
    return table(["step", *series], rows, "Loss by step")


def _line(log: Sequence[LossPoint]) -> Line:
    """Collect the finite points of one series; a log entry without a step takes its place in the log."""
    points = []
    for place, point in enumerate(log, start=1):
        step = place if point.step is None or not math.isfinite(point.step) else point.step
        if point.loss is not None and math.isfinite(point.loss):
            points.append((float(step), float(point.loss)))
    return points


def _steps(lines: Sequence[Line]) -> list[float]:
    """Choose the steps whose numbers are written out: at most 40 of each line, spread evenly over a long one."""
    chosen: set[float] = set()
    for line in lines:
        steps = sorted({step for step, _ in line})
        spread = steps if len(steps) <= 40 else [steps[round(at * (len(steps) - 1) / 39)] for at in range(40)]
        chosen.update(spread)
    return sorted(chosen)


def _at(line: Line, step: float) -> str:
    return next((figure(value) for at, value in line if at == step), "–")


def memory(plan: MemoryFacts) -> Html:
    """The predicted and the measured peak against the budget, and what would make it smaller."""
    if not plan:
        return paragraph("missing", "Memory was not planned in this run.")
    predicted, measured = plan.predicted_peak_bytes, plan.measured_peak_bytes
    budget = f"{size(plan.budget_bytes)} ({plan.budget_name or 'unnamed card'})"
    planned = f"not planned: {plan.not_planned}" if plan.not_planned else f"{size(predicted)} predicted"
    apart = f" ({plan.not_compared}: not compared)" if plan.not_compared else _error(predicted, measured)
    verdict = element(
        "p",
        _fits(fits_word(plan)),
        f" {planned}, the budget is {budget}",
        f"; {size(measured)} measured{apart}" if measured is not None else None,
        ".",
    )
    notes = [element("li", note) for note in plan.notes]
    return join([verdict, _bars(plan), _remedies(plan), element("ul", *notes) if notes else None])


def _fits(word: str) -> Html:
    outcome = {"fits": "passed", "tight": "undecided", "does not fit": "failed"}.get(word, word)
    symbol = badge(outcome)
    return Html(symbol.replace(f" {outcome}<", f" {word}<")) if outcome != word else symbol


def _error(predicted: float | None, measured: float | None) -> str:
    if predicted is None or not measured or not math.isfinite(predicted / measured):
        return ""
    return f", the prediction is off by {100 * (predicted / measured - 1):+.1f}%"


def _bars(plan: MemoryFacts) -> Html | None:
    """Draw both peaks against the budget, and what the predicted one is made of."""
    counts = [(name, float(count)) for name, count in plan.breakdown.items() if math.isfinite(count)]
    parts = sorted((part for part in counts if part[1] > 0), key=lambda part: (-part[1], part[0]))
    peaks = [("predicted", plan.predicted_peak_bytes), ("measured", plan.measured_peak_bytes)]
    known = [(name, peak) for name, peak in peaks if peak is not None and math.isfinite(peak)]
    budget = plan.budget_bytes
    most = max((*([] if budget is None else [budget]), *(peak for _, peak in known)), default=0.0) * 1.02
    if most <= 0:
        return None
    limit = None if budget is None else budget / most
    bars = [part for name, peak in known for part in (element("span", name), svg.level(peak / most, limit))]
    if parts:
        made_of = [
            (name, f"ft-part ft-part-{place % 10}", count) for place, (name, count) in enumerate(parts)
        ]
        bars += [element("span", "made of"), svg.shares(made_of)]
    key = [
        element("li", svg.swatch(place), f" {name} ", element("span", size(count), class_="ft-muted"))
        for place, (name, count) in enumerate(parts)
    ]
    caption = paragraph("muted ft-apart", "The dashed line is the budget.") if budget is not None else None
    return join([element("div", *bars, class_="ft-bars"), element("ul", *key, class_="ft-keys"), caption])


def _remedies(plan: MemoryFacts) -> Html | None:
    rows: list[list[Child]] = [
        [
            remedy.change or "unnamed change",
            size(remedy.peak_bytes),
            badge("passed") if remedy.enough else "not enough",
        ]
        for remedy in plan.remedies
    ]
    head = ["change", "predicted peak", "enough"]
    return table(head, rows, "What would make it fit, each planned anew") if rows else None
