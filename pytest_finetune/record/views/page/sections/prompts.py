"""The hand-written prompts: tried on training rows, the best one competes."""

from __future__ import annotations

from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Child, Html, element, join, table
from pytest_finetune.wording import counted, figure, percent

MOST_ROWS: Final = 200


def prompts(experiment: Json) -> Html | None:
    """Every candidate with its score, the one that competed marked; None where none was written."""
    found = reading.part(experiment, "prompt_candidates")
    tried, best = reading.parts(found, "tried"), reading.whole(found, "best")
    if not tried:
        return None
    rows: list[list[Child]] = [
        [
            element("span", str(place), " ", _best() if place - 1 == best else None),
            element("pre", reading.text(one, "template", "(empty)")),
            _score(one),
        ]
        for place, one in enumerate(tried, start=1)
    ]
    sample = [str(row) for row in reading.listed(found, "rows")]
    rule = reading.text(found, "rule", "the primary rule")
    said = (
        f"Tried on {counted(len(sample), 'training row')} by {rule}; held-out rows chose none. The first of "
        "equals competes as the arm best prompt."
    )
    return join(
        [
            table(["candidate", "prompt", "passed"], rows, "Candidates on training rows", "ft-prompt"),
            element("p", said, class_="ft-muted"),
            _sample(sample),
        ]
    )


def _best() -> Html:
    return element("span", element("span", "✓", aria_hidden="true"), " competed", class_="ft-badge ft-good")


def _score(one: Json) -> Html:
    rate = reading.number(one, "rate")
    counts = f"{figure(reading.number(one, 'passed'), 6)} of {figure(reading.number(one, 'total'), 6)}"
    picture = svg.meter(rate) if rate is not None else None
    return join([picture, f" {percent(rate)} ", element("span", counts, class_="ft-muted ft-nobreak")])


def _sample(rows: list[str]) -> Html | None:
    if not rows:
        return None
    more = f" and {len(rows) - MOST_ROWS} more" if len(rows) > MOST_ROWS else ""
    listed = element("p", ", ".join(rows[:MOST_ROWS]), more, class_="ft-muted")
    return element("details", element("summary", "The training rows that they were tried on"), listed)
