"""The noise of the base: rows that it answers otherwise, or scores otherwise, when it is asked again."""

from __future__ import annotations

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.remarks import noisy
from pytest_finetune.record.views.page.html import Child, Html, element, join, table
from pytest_finetune.record.views.page.sections.breakdown import row_links, row_places
from pytest_finetune.wording import counted

NOTE = (
    "A row whose score differs is never counted as fixed, and where it looks broken it supports no discard."
)


def noise(experiment: Json, anchor: str) -> Html | None:
    """Each further run of the base with the texts that changed, each rule with the scores; None where it ran once."""
    runs = reading.part(experiment, "noise")
    if not runs:
        return None
    places = row_places(experiment, anchor)
    texts = {
        f"text, run {name}": [str(row) for row in reading.listed(reading.part(runs, name), "changed")]
        for name in sorted(runs, key=lambda name: (len(name), name))
    }
    scores = {
        f"score, {name}": noisy(reading.part(experiment, "rules", name))
        for name in reading.rules(experiment)
        if reading.listed(reading.part(experiment, "rules", name), "noise")
    }
    asked = counted(len(runs) + 1, "time")
    if not any((*texts.values(), *scores.values())):
        return element("p", f"The base was asked {asked}: every text and every score stayed the same.")
    rows: list[list[Child]] = [
        [what, str(len(found)), row_links(found, places)] for what, found in {**texts, **scores}.items()
    ]
    caption = f"The base, asked {asked}: rows that differ between its runs"
    return join(
        [
            table(["what", "rows that differ", "which"], rows, caption, "ft-links ft-compact"),
            element("p", NOTE, class_="ft-muted"),
        ]
    )
