"""Rates of the arms by rule, one row a rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.terminal.layout import Line, cells, fit, padded
from pytest_finetune.wording import arm_word, counted, one_line, percent, rate_span, threshold

MOST_RULES: Final = 6
_LEAST_NAME, _MOST_NAME = 12, 24
_SPANS: Final = ("all", "tight", "tuned", "none")  # which intervals are shown, and how closely
_OUTCOMES: Final = {"passed": "", "undecided": "yellow"}


class Grid(NamedTuple):
    """The arms that have room beside the rules' names, and what stands in each cell."""

    arms: tuple[str, ...]
    cells: Mapping[tuple[str, str], str]
    widths: Mapping[str, int]
    name_width: int


def rate_lines(experiment: Json, columns: int, most: int = MOST_RULES) -> list[Line]:
    """Lay out at most `most` rules, the primary one first; what has no room is counted below."""
    arms, names = reading.arms(experiment), reading.rules(experiment)
    if not arms or not names:
        return []
    most = max(most, 2)
    shown = names if len(names) <= most else names[: most - 1]
    labels = {name: _label(experiment, name) for name in shown}
    longest = max(cells("rule"), *map(cells, labels.values()))
    grid = _grid(experiment, shown, arms, columns, min(longest, _MOST_NAME))
    first = min(longest, grid.name_width)
    heads = [padded(_head(arm), grid.widths[arm]) for arm in grid.arms]
    lines = [Line(fit("  ".join(["  " + "rule".ljust(first), *heads]).rstrip(), columns), "bold")]
    for name in shown:
        told = [padded(grid.cells[name, arm], grid.widths[arm]) for arm in grid.arms]
        line = "  ".join(["  " + padded(labels[name], first), *told]).rstrip()
        outcome = reading.text(reading.part(experiment, "rules", name), "outcome", "passed")
        lines.append(Line(fit(line, columns), _OUTCOMES.get(outcome, "red")))
    changed = any(_changed(experiment, name) for name in shown)
    lines.append(Line(fit(_legend(experiment, len(arms) - len(grid.arms), changed), columns)))
    if len(shown) < len(names):
        rest = [reading.part(experiment, "rules", name) for name in names[len(shown) :]]
        failing = sum(rule.get("outcome") != "passed" for rule in rest)
        lines.append(Line(f"  and {counted(len(rest), 'more rule')}, {failing or 'none'} of them not passed"))
    return lines


def _label(experiment: Json, name: str) -> str:
    changed = " (changed)" * _changed(experiment, name)
    return one_line(name) + changed + " *" * (name == reading.primary(experiment))


def _changed(experiment: Json, name: str) -> bool:
    return bool(reading.part(experiment, "rules", name).get("changed_after_look"))


def _grid(experiment: Json, names: Sequence[str], arms: Sequence[str], columns: int, wanted: int) -> Grid:
    """Fit the arms beside names of `wanted` cells: intervals give way first, then what nothing depends on."""
    left = list(arms)
    scores = {(r, a): reading.part(experiment, "arms", a, "rules", r) for r in names for a in arms}
    while True:
        for form in _SPANS:
            grid = {at: _cell(score, form, at[1]) for at, score in scores.items()}
            widths = {arm: max(cells(_head(arm)), *(len(grid[name, arm]) for name in names)) for arm in left}
            room = columns - 2 - sum(widths.values()) - 2 * len(left)
            if room >= wanted:
                return Grid(tuple(left), grid, widths, room)
        spare = _spare(experiment, left)
        if room >= _LEAST_NAME or spare is None:
            return Grid(tuple(left), grid, widths, max(room, 8))
        left.remove(spare)


def _spare(experiment: Json, arms: Sequence[str]) -> str | None:
    """Choose the arm to leave out next: one that is only shown before an opponent, base and tuned never."""
    spare = [arm for arm in arms if arm not in ("baseline", "tuned")]
    shown = [arm for arm in spare if not reading.is_opponent(experiment, arm)]
    return next(reversed(shown or spare), None)


def _head(arm: str) -> str:
    return arm_word(one_line(arm, 20))


def _cell(score: Json, form: str, arm: str) -> str:
    rate, span = reading.number(score, "rate"), rate_span(reading.span(score, "interval"))
    if rate is None:
        return "not run"
    if form == "none" or (form == "tuned" and arm != "tuned"):
        span = ""
    return f"{percent(rate):>6} {span if form == 'all' else span.replace(', ', ',')}".rstrip()


def _legend(experiment: Json, missing: int, changed: bool) -> str:
    main = reading.primary(experiment)
    rule = reading.part(experiment, "rules", main or "")
    more = "; changed: after a look" if changed else ""
    more += f"; {counted(missing, 'more arm')} on the page" if missing else ""
    if not rule:
        return f"  no primary rule was recorded{more}"
    rows = counted(len(reading.listed(rule, "rows")), "held-out row")
    confidence = reading.confidence(experiment, rule)
    level = f", intervals at {threshold(confidence)}" if confidence is not None else ""
    return f"  * primary rule, {rows}{level}{more}"
