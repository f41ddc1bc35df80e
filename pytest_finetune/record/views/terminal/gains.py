"""The tuned arm's gain over each other arm, a line each, never cut."""

from __future__ import annotations

from typing import Final, NamedTuple

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.terminal.layout import Line, cells, padded
from pytest_finetune.wording import arm_word, counted, gain_span, one_line, points

MOST_GAINS: Final = 8
# What says least goes first where the columns are too few; without the unit the line says "points over".
_FORMS: Final = tuple(
    map(
        frozenset,
        (
            ("unit", "changed", "finding", "same"),
            ("unit", "changed", "finding"),
            ("unit", "changed"),
            ("changed",),
            (),
        ),
    )
)
_COLOURS: Final = {"beats": "", "worse": "red", "excluded": "red"}


class Told(NamedTuple):
    """A comparison in the words of a line; `finding` is empty where a gain was demonstrated or none was asked."""

    against: str
    points: str
    span: str
    changed: str
    same: str
    finding: str
    markup: str


def gain_lines(experiment: Json, columns: int, most: int = MOST_GAINS) -> list[Line]:
    """Say the gain of the primary rule over each opponent, then over each arm that is only shown."""
    main = reading.primary(experiment)
    pairs = [
        pair
        for pair in reading.comparisons(experiment)
        if (main is None or pair.get("rule") == main)
        # The line of another runtime says more: how far the two agree.
        and not reading.text(pair, "against").startswith("tuned@")
    ]
    pairs.sort(key=lambda pair: not reading.is_opponent(experiment, reading.text(pair, "against")))
    shown = pairs if len(pairs) <= most else pairs[: max(most - 1, 0)]
    lines = _laid_out([_told(experiment, pair) for pair in shown], columns)
    if len(shown) < len(pairs):
        lines.append(Line(f"  and over {counted(len(pairs) - len(shown), 'more arm')}, on the page"))
    return lines


def _told(experiment: Json, pair: Json) -> Told:
    fixed, broken = len(reading.listed(pair, "fixed")), len(reading.listed(pair, "broken"))
    same, verdict = reading.whole(pair, "same"), reading.text(pair, "verdict", "beats")
    asked = reading.is_opponent(experiment, reading.text(pair, "against"))
    return Told(
        against=arm_word(one_line(reading.text(pair, "against", "an unknown arm"), 20)),
        points=points(reading.number(pair, "gain")),
        span=gain_span(reading.span(pair, "interval")),
        changed=f"{fixed} fixed, {broken} broken",
        same=f", {same} same" if same is not None else "",
        finding=one_line(verdict, 20) if asked and verdict != "beats" else "" if asked else "shown only",
        markup=_COLOURS.get(verdict, "yellow") if asked else "",
    )


def _laid_out(told: list[Told], columns: int) -> list[Line]:
    """Align the lines in the fullest form that fits; a long name gives way last."""
    if not told:
        return []
    name = max(cells(one.against) for one in told)
    for form in _FORMS:
        lines = _in_form(told, form, name)
        beyond = max(map(cells, lines)) - columns
        if beyond <= 0:
            break
    else:
        lines = _in_form(told, _FORMS[-1], max(name - beyond, 8))
    return [Line(line.rstrip(), one.markup) for line, one in zip(lines, told, strict=True)]


def _in_form(told: list[Told], form: frozenset[str], name: int) -> list[str]:
    over = "gain over" if "unit" in form else "points over"
    gains = [one.points if "unit" in form else one.points.removesuffix(" points") for one in told]
    number, span, changed = (
        max(map(len, column)) for column in (gains, [one.span for one in told], _changes(told, form))
    )
    return [
        f"  {over} {padded(one.against, name)}  {gain:>{number}} {one.span:<{span}}  {change:<{changed}}"
        + (f"  {one.finding}" if "finding" in form else "")
        for one, gain, change in zip(told, gains, _changes(told, form), strict=True)
    ]


def _changes(told: list[Told], form: frozenset[str]) -> list[str]:
    return [one.changed * ("changed" in form) + one.same * ("same" in form) for one in told]
