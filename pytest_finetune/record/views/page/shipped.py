"""The page of an adapter's files: what each of them loses against the adapter on its base, and how large it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_finetune.judging.quantised import PROVES_NOTHING
from pytest_finetune.record.views.page.html import Html, element, grid, join
from pytest_finetune.record.views.page.sections.evidence import with_span
from pytest_finetune.record.views.page.svg import Axis, gain_axis, scale, whisker
from pytest_finetune.record.views.page.whole import rests_on, said_first, whole_page
from pytest_finetune.wording import counted, figure, gain_span, percent, points, rate_span, size

if TYPE_CHECKING:
    from pytest_finetune.judging.quantised import Against, Served, SizeTable


def shipped_page(table: SizeTable, experiment: str) -> str:
    """Return what the files lose and how large they are as one HTML page."""
    score = table.served[0].trained.score
    return whole_page(
        f"GGUF files of {experiment}",
        *said_first(*table.advice),
        _grid(table),
        rests_on(score.rule, counted(score.tally.total, "development row"), PROVES_NOTHING),
    )


def _grid(table: SizeTable) -> Html:
    first = table.served[0].name
    axis = gain_axis([value for one in table.against for value in (one.gain.gain, *one.interval)])
    quiet = element("span", f"difference to {first} in points", class_="ft-quiet")
    head = ["served", join([scale(axis, ""), quiet]), f"against {first}", "right"]
    bodies = [element("tbody", _row(one, against, axis)) for one, against in table.rows]
    return grid(head, bodies, "What was served", "ft-trials")


def _row(one: Served, against: Against | None, axis: Axis) -> Html:
    passed, total = one.trained.score.tally
    took = element("span", f"{figure(one.seconds, 2)} s a row", class_="ft-note")
    named = element("span", one.name, class_="ft-value")
    large = element("span", size(one.bytes), class_="ft-note") if one.bytes is not None else None
    rate = with_span(percent(one.trained.score.rate), rate_span(one.trained.interval))
    gain, span = (against.gain.gain, against.interval) if against else (None, None)
    return element(
        "tr",
        element("th", named, large, took, scope="row"),
        element("td", whisker(axis, "tuned", gain, span, None), class_="ft-cell"),
        element("td", *(_compared(one, against) if against else ["the adapter on its base"])),
        element("td", f"{passed:g} of {total}", element("br"), rate),
    )


def _compared(one: Served, against: Against) -> list[Html]:
    changed = against.changed
    badge = element("span", "demonstrably worse", class_="ft-badge ft-bad") if against.worse else None
    answers = len(one.trained.score.rows)
    return [
        join([with_span(points(against.gain.gain), gain_span(against.interval)), " ", badge]),
        element("span", f"breaks {counted(changed.broken, 'row')}, mends {changed.mended}", class_="ft-note"),
        element("span", f"{one.alike} of {answers} texts alike", class_="ft-note"),
    ]
