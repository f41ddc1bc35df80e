"""The page of a learning curve: whole without a script, nothing fetched, the styles of a record's page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_finetune.judging.learning import RowsCurve
from pytest_finetune.judging.statistics.learning_curve import LEVEL
from pytest_finetune.record.views.page.document import asset
from pytest_finetune.record.views.page.html import Child, Html, element, grid, join
from pytest_finetune.record.views.page.svg import RATES, Axis, scale, whisker
from pytest_finetune.wording import counted, figure, percent, rate_span

if TYPE_CHECKING:
    from pytest_finetune.judging.learning import Trained, ValuesCurve

_TEN = tuple(tick / 10 for tick in range(11))


def curve_page(curve: RowsCurve | ValuesCurve, experiment: str) -> str:
    """Return a learning curve as one HTML page."""
    over = "training rows" if isinstance(curve, RowsCurve) else curve.key
    title = f"Learning curve of {experiment}"
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", Html(asset("style.css") + asset("page.css"))),
        ]
    )
    sentence, change = curve.advice
    last = curve.points[-1].score
    parts: list[Child] = [
        element("h1", title),
        element("p", element("strong", f"{sentence[:1].upper()}{sentence[1:]}.")),
        element("p", f"Next: {change}."),
        _drawn(curve) if isinstance(curve, RowsCurve) else None,
        _table(curve, over),
        element("p", _rests_on(last.rule, last.tally.total), class_="ft-muted"),
    ]
    body = element("main", *parts, class_="ft")
    return "<!doctype html>\n" + element("html", element("head", head), element("body", body), lang="en")


def _rests_on(rule: str, rows: int) -> str:
    return (
        f"Scored by rule {rule} on {counted(rows, 'development row')}, which are neither trained on nor judged by: "
        "this says what to try next and proves nothing."
    )


def _drawn(curve: RowsCurve) -> Html:
    """Draw the rates over the rows, which double from mark to mark, and the band of twice as many."""
    found = curve.forecast
    rates = [rate for point in curve.points for rate in (point.score.rate, *point.interval)]
    rates += [] if found is None else [found.score_low, found.score_high]
    low = max(tick for tick in _TEN if tick <= max(min(rates), 0.0) + 1e-9)
    high = min(tick for tick in _TEN if tick >= min(max(rates), 1.0) - 1e-9)
    height = Axis(low, high if high > low else low + 0.1, ())
    first, most = curve.points[0].rows, 2 * curve.points[-1].rows
    width = Axis(math.log2(first), math.log2(most), ())
    shapes = [*_frame(height), *_lines(curve.points, width, height), *_band(curve, width, height)]
    shapes.append(_marks([*(point.rows for point in curve.points), most], width))
    label = "the rates of the table below over the number of training rows"
    picture = element("svg", *shapes, class_="ft-curves", role="img", aria_label=label)
    ticks = [element("span", percent(value, 0)) for value in (height.high, (height.high + low) / 2, low)]
    return element(
        "div",
        element("div", join(ticks), class_="ft-heights", aria_hidden="true"),
        picture,
        element("div", "training rows", class_="ft-below", aria_hidden="true"),
        class_="ft-chart ft-learning ft-arm-tuned",
    )


def _up(height: Axis, rate: float) -> str:
    return height.place(height.high + height.low - rate)


def _frame(height: Axis) -> Iterator[Html]:
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = height.place(height.low + share * (height.high - height.low))
        yield element("line", x1="0", x2="100%", y1=y, y2=y, class_="ft-grid")


def _marks(rows: Sequence[int], width: Axis) -> Html:
    """Write how many rows each point has under it."""
    marks = (element("text", f"{one:,}", x=width.place(math.log2(one)), y="100%", dy="1.5em") for one in rows)
    return element("g", *marks, class_="ft-scale")


def _lines(points: Sequence[Trained], width: Axis, height: Axis) -> Iterator[Html]:
    places = [(width.place(math.log2(one.rows)), _up(height, one.score.rate)) for one in points]
    for (x1, y1), (x2, y2) in itertools.pairwise(places):
        yield element("line", x1=x1, x2=x2, y1=y1, y2=y2, class_="ft-curve")
    for (x, y), one in zip(places, points, strict=True):
        ends = [_up(height, rate) for rate in one.interval]
        yield element("line", x1=x, x2=x, y1=ends[0], y2=ends[1], class_="ft-whisker")
        yield element("circle", cx=x, cy=y, r="6", class_="ft-solid")


def _band(curve: RowsCurve, width: Axis, height: Axis) -> Iterator[Html]:
    found = curve.forecast
    if found is None:
        return
    last = curve.points[-1]
    x1, y1 = width.place(math.log2(last.rows)), _up(height, last.score.rate)
    for rate in (found.score_low, found.score, found.score_high):
        yield element("line", x1=x1, x2="100%", y1=y1, y2=_up(height, rate), class_="ft-curve ft-curve-1")
    yield element("circle", cx="100%", cy=_up(height, found.score), r="6", class_="ft-hollow")


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
