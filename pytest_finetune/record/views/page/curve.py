"""The page of a learning curve."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_finetune.judging.learning import RowsCurve
from pytest_finetune.judging.statistics.learning_curve import LEVEL
from pytest_finetune.record.views.page.html import Child, Html, element, grid
from pytest_finetune.record.views.page.rates_chart import chart, dot, frame, heights, marks, up
from pytest_finetune.record.views.page.svg import RATES, Axis, scale, whisker
from pytest_finetune.record.views.page.whole import rests_on, said_first, whole_page
from pytest_finetune.wording import counted, figure, percent, rate_span

if TYPE_CHECKING:
    from pytest_finetune.judging.learning import Trained, ValuesCurve


def curve_page(curve: RowsCurve | ValuesCurve, experiment: str) -> str:
    """Return a learning curve as one HTML page."""
    over = "training rows" if isinstance(curve, RowsCurve) else curve.key
    last = curve.points[-1].score
    rows = counted(last.tally.total, "development row")
    return whole_page(
        f"Learning curve of {experiment}",
        *said_first(*curve.advice),
        _drawn(curve) if isinstance(curve, RowsCurve) else None,
        _table(curve, over),
        rests_on(last.rule, rows, "this says what to try next and proves nothing"),
    )


def _drawn(curve: RowsCurve) -> Html:
    """Draw the rates over the rows, which double from mark to mark, and the band of twice as many."""
    found = curve.forecast
    rates = [rate for point in curve.points for rate in (point.score.rate, *point.interval)]
    rates += [] if found is None else [found.score_low, found.score_high]
    height = heights(rates)
    first, most = curve.points[0].rows, 2 * curve.points[-1].rows
    width = Axis(math.log2(first), math.log2(most), ())
    shapes = [*frame(height), *_lines(curve.points, width, height), *_band(curve, width, height)]
    rows = [*(point.rows for point in curve.points), most]
    shapes.append(marks([(width.place(math.log2(one)), f"{one:,}") for one in rows]))
    label = "the rates of the table below over the number of training rows"
    return chart(height, shapes, label, "training rows")


def _lines(points: Sequence[Trained], width: Axis, height: Axis) -> Iterator[Html]:
    places = [width.place(math.log2(one.rows)) for one in points]
    for (x1, one), (x2, other) in itertools.pairwise(zip(places, points, strict=True)):
        ends = {"y1": up(height, one.score.rate), "y2": up(height, other.score.rate)}
        yield element("line", x1=x1, x2=x2, **ends, class_="ft-curve")
    for x, one in zip(places, points, strict=True):
        yield from dot(x, one.score.rate, one.interval, height)


def _band(curve: RowsCurve, width: Axis, height: Axis) -> Iterator[Html]:
    found = curve.forecast
    if found is None:
        return
    last = curve.points[-1]
    x1, y1 = width.place(math.log2(last.rows)), up(height, last.score.rate)
    for rate in (found.score_low, found.score, found.score_high):
        yield element("line", x1=x1, x2="100%", y1=y1, y2=up(height, rate), class_="ft-curve ft-curve-1")
    yield element("circle", cx="100%", cy=up(height, found.score), r="6", class_="ft-hollow")


def _table(curve: RowsCurve | ValuesCurve, over: str) -> Html:
    bodies = [element("tbody", _row(point, curve)) for point in curve.points]
    found = curve.forecast if isinstance(curve, RowsCurve) else None
    if found is not None:
        rows = f"{2 * curve.points[-1].rows:,} rows (not trained: {LEVEL:.0%} band)"
        span = (found.score_low, found.score_high)
        bodies.append(element("tbody", _line(rows, found.score, span, "best_prompt", "-")))
    head: list[Child] = [over, scale(RATES, "%"), "rate", "trained for"]
    return grid(head, bodies, "Trainings of the curve")


def _row(point: Trained, curve: RowsCurve | ValuesCurve) -> Html:
    named = counted(point.rows, "row") if isinstance(curve, RowsCurve) else str(point.overrides[curve.key])
    loss = "" if point.score.loss is None else f", loss {figure(point.score.loss)}"
    trained = f"{counted(point.steps, 'step')}{loss}"
    return _line(named, point.score.rate, point.interval, "tuned", trained)


def _line(named: str, rate: float, span: tuple[float, float], arm: str, trained: str) -> Html:
    return element(
        "tr",
        element("th", named, scope="row"),
        element("td", whisker(RATES, arm, rate, span, None), class_="ft-cell"),
        element("td", element("strong", percent(rate)), f" {rate_span(span)}"),
        element("td", trained),
    )
