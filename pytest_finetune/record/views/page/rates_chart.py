"""A chart of rates: a dot with its interval for each training, over what set the trainings apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pytest_finetune.record.views.page.html import Html, element, join
from pytest_finetune.record.views.page.svg import Axis
from pytest_finetune.wording import one_line, percent

_TEN: Final = tuple(tick / 10 for tick in range(11))
_LETTERS: Final = 36
"""So many letters have room under the chart on a phone."""
_LONGEST: Final = 14


def heights(rates: Iterable[float]) -> Axis:
    """Choose a vertical axis that begins and ends at a tenth and holds all rates."""
    known = list(rates)
    low = max(tick for tick in _TEN if tick <= max(min(known), 0.0) + 1e-9)
    high = min(tick for tick in _TEN if tick >= min(max(known), 1.0) - 1e-9)
    return Axis(low, high if high > low else low + 0.1, ())


def up(height: Axis, rate: float) -> str:
    """Place a rate on the vertical axis, as a share of the height from above."""
    return height.place(height.high + height.low - rate)


def frame(height: Axis) -> Iterator[Html]:
    """Draw the lines across."""
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = up(height, height.low + share * (height.high - height.low))
        yield element("line", x1="0", x2="100%", y1=y, y2=y, class_="ft-grid")


def dot(x: str, rate: float, span: tuple[float, float], height: Axis, class_: str = "ft-solid") -> list[Html]:
    """Draw a rate as a dot with its interval."""
    ends = [up(height, end) for end in span]
    return [
        element("line", x1=x, x2=x, y1=ends[0], y2=ends[1], class_="ft-whisker"),
        element("circle", cx=x, cy=up(height, rate), r="6", class_=class_),
    ]


def cross(x: str) -> Html:
    """Draw on the lowest line what has no rate."""
    mark = element("path", d="M-5-5 5 5M-5 5 5-5", class_="ft-whisker")
    return element("svg", mark, x=x, y="100%", overflow="visible")


def marks(named: Sequence[tuple[str, str]]) -> Html:
    """Write under the chart what stands at each place; some are left out where there are too many to read."""
    short = [(x, one_line(name, _LONGEST)) for x, name in named]
    longest = max((len(name) for _, name in short), default=0)
    every = max(1, math.ceil(len(short) * (longest + 1) / _LETTERS))
    texts = (element("text", name, x=x, y="100%", dy="1.5em") for x, name in short[::every])
    return element("g", *texts, class_="ft-scale")


def chart(height: Axis, shapes: Iterable[Html], label: str, below: str) -> Html:
    """Put shapes between the rates on their left and what is meant below; `label` tells them to a screen reader."""
    picture = element("svg", *shapes, class_="ft-curves", role="img", aria_label=label)
    rates = (height.high, (height.high + height.low) / 2, height.low)
    ticks = [element("span", percent(value, 0)) for value in rates]
    return element(
        "div",
        element("div", join(ticks), class_="ft-heights", aria_hidden="true"),
        picture,
        element("div", below, class_="ft-below", aria_hidden="true"),
        class_="ft-chart ft-learning ft-arm-tuned",
    )
