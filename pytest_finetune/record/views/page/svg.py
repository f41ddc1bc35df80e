"""Pictures of a record as inline SVG: the same bytes for the same numbers, no script, no font, no colour.

Horizontal positions are percentages, so a picture stretches with its cell while dots stay round and
lines thin. Colours come from the style sheet through classes. A picture that repeats the numbers beside it is
hidden from screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple

from pytest_finetune.record.views.page.html import Html, element, join
from pytest_finetune.wording import figure

_ROUND: Final = element("circle", r="5.5", class_="ft-hollow")
_SQUARE: Final = element("path", d="M-5.5-5.5h11v11h-11z", class_="ft-solid")
_DIAMOND: Final = "M0-7 7 0 0 7-7 0z"
_MARKERS: Final = {
    "baseline": _ROUND,
    "prompted": element("path", d=_DIAMOND, class_="ft-solid"),
    "best_prompt": element("path", d=_DIAMOND, class_="ft-hollow"),
    "constrained": element("path", d="M-5-5h10v10h-10z", class_="ft-hollow"),
    "tuned": element("circle", r="6", class_="ft-solid"),
}
# Arms of one family share a colour; their shapes tell them apart.
_COLOURS: Final = {
    "baseline": "baseline", "constrained": "baseline", "prompted": "prompted", "best_prompt": "prompted",
    "tuned": "tuned",
}  # fmt: skip


class Axis(NamedTuple):
    """A span of values that is drawn from the left edge to the right edge."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> str:
        """Place a value on the axis, as a percentage of its width; values beyond it sit on its end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return f"{100 * share:.2f}%"


RATES: Final = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))


def gain_axis(values: Sequence[float]) -> Axis:
    """Choose an axis in steps of 5, 10, 25 or 50 points that shows zero and every value."""
    finite = [value for value in (*values, 0.0) if math.isfinite(value)]
    low, high = min(finite), max(finite)
    step = next((s for s in (0.05, 0.1, 0.25) if (high - low) / s <= 6), 0.5)
    most = round(1 / step)
    first, last = max(math.floor(low / step - 1e-9), -most), min(math.ceil(high / step + 1e-9), most)
    ticks = tuple(round(step * i, 4) for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def round_ticks(low: float, high: float, *, log: bool) -> tuple[float, ...]:
    """Choose round numbers between two ends, which are above zero where they are wanted by orders of magnitude.

    >>> round_ticks(0.0001, 0.003, log=True), round_ticks(0.0, 0.1, log=False)
    ((0.0001, 0.0003, 0.001, 0.003), (0.0, 0.02, 0.04, 0.06, 0.08, 0.1))
    """
    near = 1e-9 * (high - low)
    ticks = _by_magnitude(low, high) if log else _evenly(low, high)
    within = tuple(tick for tick in ticks if low - near <= tick <= high + near)
    return within if len(within) > 1 else (low, high)


def _by_magnitude(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 3) if len(powers) <= 4 else (1,)
    return [float(f"{step}e{power}") for power in powers for step in steps]


def _evenly(low: float, high: float) -> list[float]:
    least = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(least))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= least * (1 - 1e-9))
    return [round(step * at, 12) for at in range(math.floor(low / step), math.ceil(high / step) + 1)]


def whisker(
    axis: Axis,
    arm: str,
    value: float | None,
    span: tuple[float, float] | None,
    threshold: float | None,
    *,
    chance: tuple[float, str] | None = None,
) -> Html:
    """Draw a value as a dot with its interval as a whisker, and a threshold as a dashed line.

    Vertical lines fill the height that the style sheet gives; the rest stands in the middle of it. `chance` is a
    further line with what is written beside it.
    """
    lines = [_vertical(axis.place(tick), "ft-zero" if tick == 0 else "ft-grid") for tick in axis.ticks]
    if threshold is not None and math.isfinite(threshold):
        lines.append(_vertical(axis.place(threshold), "ft-threshold"))
    if chance is not None:
        at, label = chance
        left = (at - axis.low) / (axis.high - axis.low) > 0.8
        beside = {"dx": "-4" if left else "4", "text_anchor": "end" if left else "start"}
        lines.append(_vertical(axis.place(at), "ft-chance"))
        lines += [element("text", label, x=axis.place(at), y="9", class_="ft-chance-word", **beside)] * bool(
            label
        )
    parts = []
    if span is not None:
        ends = [axis.place(end) for end in span]
        parts.append(element("line", x1=ends[0], x2=ends[1], y1="0", y2="0", class_="ft-whisker"))
        parts += [element("line", x1=end, x2=end, y1="-5", y2="5", class_="ft-whisker") for end in ends]
    if value is not None and math.isfinite(value):
        parts.append(element("svg", _mark(arm), x=axis.place(value), overflow="visible"))
    middle = element("svg", *parts, y="50%", overflow="visible")
    return element("svg", *lines, middle, class_=f"ft-plot {_colour(arm)}", aria_hidden="true")


@cache
def marker(arm: str) -> Html:
    """Draw an arm's marker alone, as a key to the plots."""
    inner = element("svg", _mark(arm), x="8", y="8", overflow="visible")
    return element("svg", inner, class_=f"ft-key {_colour(arm)}", width="16", height="16", aria_hidden="true")


def _mark(arm: str) -> Html:
    return _MARKERS.get(arm, _ROUND if arm.startswith("tuned@") else _SQUARE)


def _colour(arm: str) -> str:
    return f"ft-arm-{_COLOURS.get(arm.partition('@')[0], 'other')}"


def scale(axis: Axis, unit: str) -> Html:
    """Write the numbers of an axis above its plots."""
    signed = axis.low < 0 or unit != "%"
    labels = [
        element("text", f"{100 * tick:{'+' if signed and tick else ''}g}{unit}", x=axis.place(tick), y="11")
        for tick in axis.ticks
    ]
    return element("svg", *labels, class_="ft-plot ft-scale", height="14", aria_hidden="true")


def _vertical(x: str, class_: str) -> Html:
    return element("line", x1=x, x2=x, y1="0", y2="100%", class_=class_)


def shares(parts: Sequence[tuple[str, str, float]]) -> Html:
    """Draw counts as one bar; `parts` are (name, class, count). The counts stand beside it in text."""
    total = sum(count for _, _, count in parts) or 1
    bars, left = [], 0.0
    for name, class_, count in parts:
        width = 100 * count / total
        if count:
            label = element("title", name)
            bars.append(
                element(
                    "rect", label, x=f"{left:.2f}%", width=f"{width:.2f}%", y="0", height="18", class_=class_
                )
            )
        left += width
    return element("svg", *bars, class_="ft-bar", height="18", aria_hidden="true")


def level(share: float, limit: float | None) -> Html:
    """Draw one amount as a bar of `share` of the width, against a dashed line at `limit` of the width."""
    bar = element("rect", x="0", width=f"{100 * share:.3f}%", y="4", height="16", class_="ft-level")
    line = None
    if limit is not None:
        at = f"{100 * limit:.3f}%"
        line = element("line", x1=at, x2=at, y1="0", y2="24", class_="ft-threshold")
    return element("svg", bar, line, class_="ft-bar", height="24", aria_hidden="true")


def meter(share: float) -> Html:
    """Draw a share as a short bar beside its number."""
    width = min(max(share, 0.0), 1.0)
    bar = element("rect", width=f"{100 * width:.1f}%", height="8", rx="2", class_="ft-level")
    return element("svg", bar, class_="ft-meter", width="90", height="8", aria_hidden="true")


def swatch(place: int) -> Html:
    """Draw the colour of one memory part, as a key to the bar."""
    box = element("rect", width="12", height="12", rx="2", class_=f"ft-part ft-part-{place % 10}")
    return element("svg", box, class_="ft-key", width="12", height="12", aria_hidden="true")


def curve(series: Mapping[str, Sequence[tuple[float, float]]], label: str) -> Html:
    """Draw loss over steps, one line a series, with its scales as text around it.

    Points that are not finite are left out; the text around the picture says so.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return Html("")
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top = max(y for _, y in points) * 1.05 or 1.0
    bottom = min(0.0, *(y for _, y in points))

    def at(x: float, y: float) -> str:
        across = (x - left) / (right - left) if right > left else 0.5
        return f"{1000 * across:.1f},{300 * (1 - (y - bottom) / (top - bottom)):.1f}"

    grid = [
        element("line", x1="0", x2="1000", y1=str(y), y2=str(y), class_="ft-grid")
        for y in (0, 75, 150, 225, 300)
    ]
    lines = [
        element(
            "polyline", points=" ".join(at(x, y) for x, y in line), class_=f"ft-curve ft-curve-{place % 3}"
        )
        for place, line in enumerate(series.values())
    ]
    picture = element(
        "svg", *grid, *lines, viewBox="0 0 1000 300", preserveAspectRatio="none", class_="ft-curves",
        role="img", aria_label=label,
    )  # fmt: skip
    heights = [element("span", figure(bottom + (top - bottom) * part, 3)) for part in (1, 0.5, 0)]
    steps = [element("span", f"step {left:g}"), element("span", f"step {right:g}")]
    return element(
        "div",
        element("div", join(heights), class_="ft-heights", aria_hidden="true"),
        picture,
        element("div", join(steps), class_="ft-steps", aria_hidden="true"),
        class_="ft-chart",
    )
