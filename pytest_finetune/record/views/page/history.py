"""The page of all runs in a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pytest_finetune.record.recipes import seeds_cell
from pytest_finetune.record.summary import RunLine, rests_on, verdicts
from pytest_finetune.record.views.page.html import Child, Html, element, grid, join
from pytest_finetune.record.views.page.sections.verdict import SYMBOLS
from pytest_finetune.record.views.page.svg import Axis, gain_axis, scale, whisker
from pytest_finetune.record.views.page.whole import whole_page
from pytest_finetune.wording import (
    counted,
    duration,
    gain_span,
    percent,
    points,
    rate_span,
    size,
)

ID_SHOWN: Final = 12
_TONES: Final = {"keep": "good", "iterate": "warn", "discard": "bad"}


def history_page(runs: Sequence[RunLine]) -> str:
    """Return the runs, the newest first, as one HTML page."""
    order = ", the newest first" if len(runs) > 1 else ""
    said = f"{counted(len(runs), 'run')}{order}: {verdicts(runs)}"
    rests = rests_on(runs)
    notes = element("p", rests, class_="ft-muted") if rests else None
    return whole_page("Fine-tuning history", element("p", said), notes, _table(runs) if runs else None)


def _table(runs: Sequence[RunLine]) -> Html:
    values = [value for run in runs for value in (run.gain, run.gain_low, run.gain_high)]
    axis = gain_axis([value for value in values if value is not None])
    quiet = element("span", "gain in points", class_="ft-quiet")
    head: list[Child] = ["run", "verdict", "gain over the base", "look and cost", "run and key"]
    bodies = (element("tbody", *_rows(run, axis)) for run in runs)
    return grid([*head, join([scale(axis, ""), quiet])], bodies, "Runs of the store", "ft-history")


def _rows(run: RunLine, axis: Axis) -> list[Html]:
    plot = whisker(axis, "tuned", run.gain, run.gain_span, None)
    facts = element(
        "tr",
        element("th", element("strong", run.experiment or "-"), _line(_when(run)), scope="row"),
        element("td", _verdict(run)),
        element("td", *_gain(run)),
        element("td", *_cost(run)),
        element("td", element("code", run.run[:ID_SHOWN]), _line((run.key or "-")[:ID_SHOWN])),
        element("td", plot, class_="ft-cell", rowspan=2),
    )
    why = element("td", run.reason or "No reason was recorded.", colspan="5", class_="ft-muted")
    return [facts, element("tr", why, class_="ft-why")]


def _verdict(run: RunLine) -> Html:
    tone = _TONES.get(run.verdict, "none")
    symbol = element("span", SYMBOLS[tone], aria_hidden="true")
    return element("span", symbol, f" {run.word}", class_=f"ft-badge ft-{tone}")


def _gain(run: RunLine) -> list[Child]:
    if run.gain is None and run.rate is None:
        return ["not measured"]
    gain = element("strong", points(run.gain))
    span = element("span", f" {gain_span(run.gain_span)}", class_="ft-muted ft-nobreak")
    base = f"{percent(run.base_rate)} → " if run.base_rate is not None else ""
    rate = f"{run.primary or 'primary rule'} {base}{percent(run.rate)} {rate_span(run.rate_span)}"
    return [gain, span, _line(rate)]


def _cost(run: RunLine) -> list[Child]:
    looks = f"look {run.looked}" if run.looked else "no look"
    seconds = [] if run.seconds is None else [duration(run.seconds)]
    peak = [] if run.peak_bytes is None else [size(run.peak_bytes)]
    trained = ", ".join([*seconds, *peak]) or "not trained"
    word = seeds_cell(run.seeds, run.recipe)
    return [looks, _line(trained), *([_line(f"seeds: {word}")] if run.recipe else [])]


def _line(text: str) -> Html:
    return element("span", text, class_="ft-note")


def _when(run: RunLine) -> str:
    return (run.created or "-").replace("T", " ").removesuffix("+00:00")
