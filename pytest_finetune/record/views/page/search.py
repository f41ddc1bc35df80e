"""The page of a search: its trials over what was tried, the best of them, and what to do with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pytest_finetune.experiment.over import Choice, Range
from pytest_finetune.judging.searched import FLATTERED, next_step
from pytest_finetune.record.views.page.html import Child, Html, element, grid, paragraph
from pytest_finetune.record.views.page.rates_chart import chart, cross, dot, frame, heights, marks
from pytest_finetune.record.views.page.sections.evidence import with_span
from pytest_finetune.record.views.page.svg import RATES, Axis, round_ticks, scale, whisker
from pytest_finetune.record.views.page.whole import rests_on, said_first, whole_page
from pytest_finetune.wording import counted, duration, figure, percent, rate_span

if TYPE_CHECKING:
    from pytest_finetune.judging.searched import Searched, SearchTrial

_FROM_THE_LEFT: Final = 4.0
"""A range begins so far from the edge of the chart, in percent of its width, and ends as far from the other."""

Place = Callable[["SearchTrial"], str]


def search_page(found: Searched, experiment: str, file: str) -> str:
    """Return a search as one HTML page; the best trial is written in `file`."""
    best, trained = found.best
    rows = counted(trained.score.tally.total, "development row")
    return whole_page(
        f"Search for settings of {experiment}",
        *said_first(found.sentence, next_step(file), found.won_by, *filter(None, [found.at_an_end])),
        _drawn(found) if len(found.trials) > 1 else None,
        _table(found, best),
        rests_on(trained.score.rule, rows, FLATTERED),
    )


def _drawn(found: Searched) -> Html:
    """Draw the rates over the one setting that was tried, or over the number of the trial."""
    best, _ = found.best
    height = heights(rate for _, one in found.complete for rate in (one.score.rate, *one.interval))
    place, named, below = _across(found)
    shapes = [*frame(height), marks(named)]
    for trial, one in found.complete:
        class_ = "ft-solid" if trial is best else "ft-hollow"
        shapes += dot(place(trial), one.score.rate, one.interval, height, class_)
    ended = [trial for trial in found.trials if trial.trained is None]
    shapes += [cross(place(trial)) for trial in ended]
    crosses = "; a cross: stopped early or failed" if ended else ""
    return element(
        "figure",
        chart(height, shapes, f"the rates of the table below over {below}", below),
        paragraph("muted", f"Filled: the best, hollow: the others, with their intervals{crosses}."),
    )


def _across(found: Searched) -> tuple[Place, list[tuple[str, str]], str]:
    """Return where a trial stands, what is written below the chart at which place, and what that is."""
    if len(found.overs) > 1:
        cells = _cells(len(found.trials))
        numbers = [(x, str(one.number)) for x, one in zip(cells, found.trials, strict=True)]
        return (lambda trial: cells[trial.number - 1]), numbers, "the number of the trial"
    (over,) = found.overs
    if isinstance(over, Choice):
        places = dict(zip(map(repr, over.values), _cells(len(over.values)), strict=True))
        words = [(places[repr(value)], str(value)) for value in over.values]
        return (lambda trial: places[repr(trial.values[over.key])]), words, over.key
    span = _Span.of(over)
    ticks = round_ticks(over.low, over.high, log=over.log)
    words = [(span.place(tick), figure(tick)) for tick in ticks if tick % 1 == 0 or not over.whole]
    return (lambda trial: span.place(trial.values[over.key])), words, over.key


class _Span:
    """Places the values of a range, by orders of magnitude where it is searched by them."""

    def __init__(self, axis: Axis, scaled: Callable[[float], float]) -> None:
        self._axis, self._scaled = axis, scaled

    @classmethod
    def of(cls, over: Range) -> _Span:
        """Return the places of a range, with room before its first and after its last."""
        scaled = math.log10 if over.log else float
        low, high = scaled(over.low), scaled(over.high)
        room = (high - low) * _FROM_THE_LEFT / (100 - 2 * _FROM_THE_LEFT)
        return cls(Axis(low - room, high + room, ()), scaled)

    def place(self, value: float) -> str:
        """Place a value, as a share of the width."""
        return self._axis.place(self._scaled(value))


def _cells(count: int) -> list[str]:
    return [f"{100 * (at + 0.5) / count:.2f}%" for at in range(count)]


def _table(found: Searched, best: SearchTrial) -> Html:
    keys = [over.key for over in found.overs]
    bodies = [element("tbody", _row(one, keys, one is best)) for one in found.trials]
    head: list[Child] = [keys[0] if len(keys) == 1 else "tried", scale(RATES, "%"), "rate", "how it went"]
    return grid(head, bodies, "Trials in their order", "ft-trials")


def _row(one: SearchTrial, keys: list[str], is_best: bool) -> Html:
    values = [one.value(keys[0])] if len(keys) == 1 else [f"{key} {one.value(key)}" for key in keys]
    named = [element("span", f"{value} ", class_="ft-value") for value in values]
    number = element("span", f"trial {one.number}", class_="ft-note")
    first = element("th", *named, number, scope="row")
    if one.trained is None:
        plot = element("td", whisker(RATES, "tuned", None, None, None), class_="ft-cell")
        return element(
            "tr", first, plot, element("td", element("strong", one.state)), element("td", f"{one.why}.")
        )
    span, score = one.trained.interval, one.trained.score
    rate = with_span(percent(score.rate), rate_span(span))
    badge = element("span", "best", class_="ft-badge ft-good") if is_best else None
    loss = None if score.loss is None else element("span", f"loss {figure(score.loss)}", class_="ft-note")
    went = f"{counted(one.trained.steps, 'step')} in "
    seconds = element("span", duration(one.trained.seconds), class_="ft-nobreak")
    return element(
        "tr",
        first,
        element("td", whisker(RATES, "tuned", score.rate, span, None), class_="ft-cell"),
        element("td", rate, " ", badge),
        element("td", went, seconds, loss),
    )
