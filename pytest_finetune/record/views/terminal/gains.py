"""The tuned arm's gain over each other arm, a line each, never cut."""

from __future__ import annotations

from typing import Final, NamedTuple

from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.tables import Gain, gains
from pytest_finetune.record.views.terminal.layout import Line, cells, padded
from pytest_finetune.wording import arm_word, counted, one_line

MOST_GAINS: Final = 8
# What says least goes first where the columns are too few; without the unit the line says "points over".
_LEAVING: Final = ("same", "finding", "unit", "changed")
_FORMS: Final = tuple(frozenset(_LEAVING[place:]) for place in range(len(_LEAVING) + 1))
_COLOURS: Final = {"beats": "", "worse": "red", "excluded": "red"}


class Told(NamedTuple):
    """A gain in the words of a line; `finding` is empty where it was demonstrated or none was asked."""

    against: str
    points: str
    span: str
    changed: str
    same: str
    finding: str
    markup: str


def gain_lines(experiment: RecordedExperiment, columns: int, most: int = MOST_GAINS) -> list[Line]:
    """Say the gain of the primary rule over each opponent, then over each arm that is only shown."""
    # The line of another runtime says more: how far the two agree.
    found = [gain for gain in gains(experiment) if not gain.pair.against.startswith("tuned@")]
    shown = found if len(found) <= most else found[: max(most - 1, 0)]
    lines = _laid_out([_told(gain) for gain in shown], columns)
    if len(shown) < len(found):
        lines.append(Line(f"  and over {counted(len(found) - len(shown), 'more arm')}, on the page"))
    return lines


def _told(gain: Gain) -> Told:
    same, verdict = gain.pair.same, gain.pair.verdict or "beats"
    return Told(
        against=arm_word(one_line(gain.pair.against or "an unknown arm", 20)),
        points=gain.points,
        span=gain.span,
        changed=", ".join(gain.changed),
        same=f", {same} same" if same is not None else "",
        finding=one_line(verdict, 20)
        if gain.asked and verdict != "beats"
        else ""
        if gain.asked
        else "shown only",
        markup=_COLOURS.get(verdict, "yellow") if gain.asked else "",
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
