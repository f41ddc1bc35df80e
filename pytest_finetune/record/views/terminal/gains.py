"""The tuned arm's gain over each other arm, a line each, never cut."""

from __future__ import annotations

from typing import Final

from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.tables import Gain, gains
from pytest_finetune.record.views.terminal.layout import Line, cells, padded
from pytest_finetune.wording import arm_word, counted, one_line

MOST_GAINS: Final = 8
# What says least goes first where the columns are too few; without the unit the line says "points over".
_LEAVING: Final = ("same", "finding", "unit", "changed")
_FORMS: Final = tuple(frozenset(_LEAVING[place:]) for place in range(len(_LEAVING) + 1))
_COLOURS: Final = {"beats": "", "worse": "red", "excluded": "red"}


def gain_lines(experiment: RecordedExperiment, columns: int, most: int = MOST_GAINS) -> list[Line]:
    """Say the gain of the primary rule over each opponent, then over each arm that is only shown."""
    found = gains(experiment)
    shown = found if len(found) <= most else found[: max(most - 1, 0)]
    lines = _laid_out(shown, columns)
    if len(shown) < len(found):
        lines.append(Line(f"  and over {counted(len(found) - len(shown), 'more arm')}, on the page"))
    return lines


def _laid_out(found: list[Gain], columns: int) -> list[Line]:
    """Align the lines in the fullest form that fits; a long name gives way last."""
    if not found:
        return []
    name = max(cells(_over(gain)) for gain in found)
    for form in _FORMS:
        lines = _in_form(found, form, name)
        beyond = max(map(cells, lines)) - columns
        if beyond <= 0:
            break
    else:
        lines = _in_form(found, _FORMS[-1], max(name - beyond, 8))
    return [Line(line.rstrip(), _markup(gain)) for line, gain in zip(lines, found, strict=True)]


def _in_form(found: list[Gain], form: frozenset[str], name: int) -> list[str]:
    over = "gain over" if "unit" in form else "points over"
    rows = [(gain, _points(gain, form), _changes(gain, form)) for gain in found]
    number, changed = (max(len(row[place]) for row in rows) for place in (1, 2))
    span = max(len(gain.span) for gain in found)
    return [
        f"  {over} {padded(_over(gain), name)}  {points:>{number}} {gain.span:<{span}}  {change:<{changed}}"
        + (f"  {_finding(gain)}" if "finding" in form else "")
        for gain, points, change in rows
    ]


def _over(gain: Gain) -> str:
    return arm_word(one_line(gain.pair.against or "an unknown arm", 20))


def _points(gain: Gain, form: frozenset[str]) -> str:
    return gain.points if "unit" in form else gain.points.removesuffix(" points")


def _changes(gain: Gain, form: frozenset[str]) -> str:
    same = f", {gain.pair.same} same" if gain.pair.same is not None else ""
    return ", ".join(gain.changed) * ("changed" in form) + same * ("same" in form)


def _finding(gain: Gain) -> str:
    """Name a finding; empty where the gain was demonstrated."""
    if not gain.asked:
        return "shown only"
    return "" if gain.pair.verdict in ("", "beats") else one_line(gain.pair.verdict, 20)


def _markup(gain: Gain) -> str:
    return _COLOURS.get(gain.pair.verdict or "beats", "yellow") if gain.asked else ""
