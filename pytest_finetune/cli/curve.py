"""``pytest-finetune curve``: what more training rows would bring, or another value of one setting."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from pytest_finetune.cli import trials
from pytest_finetune.cli.answer import Answer, CommandError, columns
from pytest_finetune.experiment.over import Choice, Over, parse_over
from pytest_finetune.judging.learning import ALPHA, RowsCurve, Trained, ValuesCurve
from pytest_finetune.judging.statistics.learning_curve import LEVEL
from pytest_finetune.record.views.page.curve import curve_page
from pytest_finetune.wording import counted, figure, gain_span, percent, rate_span, signed

HELP: Final = "what twice as many training rows would bring"
DESCRIPTION: Final = (
    "Train on an eighth, a quarter, a half and all of the training rows, judge each on the development rows alone, "
    "and say what twice as many rows would bring; --over asks about one setting instead. What was trained before is "
    "reused. No held-out row is read and no look is spent."
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    trials.add_arguments(command)
    command.add_argument("--html", action="store_true", help="print the curve as one HTML page")


def run(args: argparse.Namespace) -> Answer:
    """Run the trainings, and say what follows."""
    over = _one(parse_over(args.over))
    project = trials.checked(args, [over] if over else [])
    found = trials.run_trials(args, {"kind": "curve"})
    points = [Trained.of_json(one) for one in found["trials"]]
    curve: RowsCurve | ValuesCurve = (
        ValuesCurve(over.key, tuple(points))
        if over
        else RowsCurve(tuple(sorted(points, key=lambda point: point.rows)))
    )
    tree = {**project.heading(), **curve.as_json()}
    page = curve_page(curve, project.experiment.name) if args.html else ""
    return Answer(list(_lines(curve)), tree, page=page)


def _one(overs: tuple[Over, ...]) -> Choice | None:
    if len(overs) > 1:
        raise CommandError("--over: a curve shows one setting at a time; `search` tries several together")
    if not overs:
        return None
    (over,) = overs
    if not isinstance(over, Choice):
        raise CommandError(
            f"--over {over.key}: a curve needs its values, the cheapest first, as in lora.r=2,4,8,16"
        )
    return over


def _lines(curve: RowsCurve | ValuesCurve) -> Iterator[str]:
    sentence, change = curve.advice
    yield sentence
    yield f"next: {change}"
    yield ""
    yield from _rows(curve) if isinstance(curve, RowsCurve) else _values(curve)
    last = curve.points[-1].score
    yield ""
    yield (
        f"scored by rule {last.rule} on {counted(last.tally.total, 'development row')}: this says what to try next and "
        "proves nothing"
    )


def _rows(curve: RowsCurve) -> Iterator[str]:
    rows = [
        (f"{one.rows:,}", one.steps, percent(one.score.rate), rate_span(one.interval), _loss(one))
        for one in curve.points
    ]
    found = curve.forecast
    if found is not None:
        span = rate_span((found.score_low, found.score_high))
        rows.append((f"{2 * curve.points[-1].rows:,} expected", "", percent(found.score), span, ""))  # type: ignore[arg-type]
    head = ("training rows", "steps", "rate", "interval", "loss")
    yield from columns(head, rows, right=(0, 1, 2, 4))
    if found is not None:
        yield f"  expected: the score of that training lies in its interval in {LEVEL:.0%} of cases"


def _values(curve: ValuesCurve) -> Iterator[str]:
    rows = [
        (
            str(one.overrides[curve.key]),
            one.steps,
            percent(one.score.rate),
            rate_span(one.interval),
            _loss(one),
            signed(gain.gain) if place else "",
            gain_span(gain.interval(ALPHA)) if place else "",
        )
        for place, (one, gain) in enumerate(zip(curve.points, curve.gains(), strict=True))
    ]
    head = (curve.key, "steps", "rate", "interval", "loss", "over the first", "interval")
    yield from columns(head, rows, right=(1, 2, 4, 5))


def _loss(point: Trained) -> str:
    return "-" if point.score.loss is None else figure(point.score.loss)
