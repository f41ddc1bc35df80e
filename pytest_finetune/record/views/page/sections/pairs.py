"""The other pairs of arms: each against each, without the tuned one."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page.html import Child, Html, element, join, table
from pytest_finetune.record.views.page.sections.evidence import with_span
from pytest_finetune.wording import arm_word, counted, gain_span, p_words, points


def pairs(experiment: Json) -> Html | None:
    """Each pair in one line, the primary rule first and the others folded; None where no two arms are left."""
    found = reading.parts(experiment, "pairs")
    order = reading.rules(experiment)
    names = sorted(
        {reading.text(pair, "rule", "unnamed rule") for pair in found},
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )
    if not names:
        return None
    found.sort(key=lambda pair: (_place(pair, "against"), _place(pair, "arm")))
    grids = [_table(name, [pair for pair in found if reading.text(pair, "rule") == name]) for name in names]
    rest = element(
        "details",
        element("summary", f"Under {counted(len(grids) - 1, 'further rule')}: {', '.join(names[1:])}"),
        *grids[1:],
        class_="ft-more",
    )
    note = "Nothing is decided on these. better: rows that pass with the first arm and not with the second."
    return join([grids[0], element("p", note, class_="ft-muted"), rest if grids[1:] else None])


def _place(pair: Json, key: str) -> tuple[int, str]:
    return reading.place_of(reading.text(pair, key))


def _table(name: str, found: Sequence[Json]) -> Html:
    rows: list[list[Child]] = [
        [
            f"{arm_word(reading.text(pair, 'arm', 'an arm'))} over {arm_word(reading.text(pair, 'against', 'an arm'))}",
            with_span(points(reading.number(pair, "gain")), gain_span(reading.span(pair, "interval"))),
            reading.text(pair, "fixed", "–"),
            reading.text(pair, "broken", "–"),
            p_words(reading.number(pair, "p_value")),
        ]
        for pair in found
    ]
    head = ["pair", "gain and interval", "better", "worse", "one-sided p"]
    return table(head, rows, f"{name}: other pairs of arms", "ft-compact")
