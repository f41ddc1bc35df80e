"""Rates of the arms by rule, one row a rule; then the slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import RuleFacts, Score
from pytest_finetune.record.tables import Rate, rates
from pytest_finetune.record.views.terminal.layout import Line, cells, fit, padded
from pytest_finetune.wording import arm_word, counted, one_line, percent, threshold

MOST_RULES: Final = 6
_MOST_SLICES: Final = 4
_LEAST_NAME, _MOST_NAME = 12, 24
_SPANS: Final = ("all", "tight", "tuned", "none")  # which intervals are shown, and how closely
_OUTCOMES: Final = {"passed": "", "undecided": "yellow"}


class Grid(NamedTuple):
    """The arms that have room beside the rules' names, and what stands in each cell."""

    arms: tuple[str, ...]
    cells: Mapping[tuple[str, str], str]
    widths: Mapping[str, int]
    name_width: int


def rate_lines(experiment: RecordedExperiment, columns: int, most: int = MOST_RULES) -> list[Line]:
    """Lay out at most `most` rules, the primary one first; what has no room is counted below."""
    rules = list(experiment.rules.values())
    if not experiment.arms or not rules:
        return []
    most = max(most, 2)
    shown = rules if len(rules) <= most else rules[: most - 1]
    labels = [_label(rule) for rule in shown]
    longest = max(cells("rule"), *map(cells, labels))
    grid = _grid(experiment, rates(experiment)[: len(shown)], columns, min(longest, _MOST_NAME))
    first = min(longest, grid.name_width)
    heads = [padded(_head(arm), grid.widths[arm]) for arm in grid.arms]
    lines = [Line(fit("  ".join(["  " + "rule".ljust(first), *heads]).rstrip(), columns), "bold")]
    for rule, label in zip(shown, labels, strict=True):
        told = [padded(grid.cells[rule.name, arm], grid.widths[arm]) for arm in grid.arms]
        line = "  ".join(["  " + padded(label, first), *told]).rstrip()
        lines.append(Line(fit(line, columns), _OUTCOMES.get(rule.outcome or "passed", "red")))
    changed = any(rule.changed_after_look for rule in shown)
    lines.append(Line(fit(_legend(experiment, len(experiment.arms) - len(grid.arms), changed), columns)))
    if rest := rules[len(shown) :]:
        failing = sum(rule.outcome != "passed" for rule in rest)
        lines.append(Line(f"  and {counted(len(rest), 'more rule')}, {failing or 'none'} of them not passed"))
    return lines


def _label(rule: RuleFacts) -> str:
    return one_line(rule.name) + " (changed)" * rule.changed_after_look + " *" * rule.primary


def _grid(
    experiment: RecordedExperiment, rows: Sequence[tuple[RuleFacts, list[Rate]]], columns: int, wanted: int
) -> Grid:
    """Fit the arms beside names of `wanted` cells: intervals give way first, then what nothing depends on."""
    left = list(experiment.arms)
    while True:
        for form in _SPANS:
            grid = {(rule.name, rate.arm): _cell(rate, form) for rule, found in rows for rate in found}
            widths = {
                arm: max(cells(_head(arm)), *(len(grid[rule.name, arm]) for rule, _ in rows)) for arm in left
            }
            room = columns - 2 - sum(widths.values()) - 2 * len(left)
            if room >= wanted:
                return Grid(tuple(left), grid, widths, room)
        spare = _spare(experiment, left)
        if room >= _LEAST_NAME or spare is None:
            return Grid(tuple(left), grid, widths, max(room, 8))
        left.remove(spare)


def _spare(experiment: RecordedExperiment, arms: Sequence[str]) -> str | None:
    """Choose the arm to leave out next: one that is only shown before an opponent, base and tuned never."""
    spare = [arm for arm in arms if arm not in ("baseline", "tuned")]
    shown = [arm for arm in spare if not experiment.is_opponent(arm)]
    return next(reversed(shown or spare), None)


def _head(arm: str) -> str:
    return arm_word(one_line(arm, 20))


def _cell(rate: Rate, form: str) -> str:
    if rate.score.rate is None:
        return rate.rate
    span = "" if form == "none" or (form == "tuned" and rate.arm != "tuned") else rate.span
    return f"{rate.rate:>6} {span if form == 'all' else span.replace(', ', ',')}".rstrip()


def _legend(experiment: RecordedExperiment, missing: int, changed: bool) -> str:
    rule = experiment.primary
    more = "; changed: after a look" if changed else ""
    more += f"; {counted(missing, 'more arm')} on the page" if missing else ""
    if not rule:
        return f"  no primary rule was recorded{more}"
    confidence = experiment.confidence(rule)
    level = f", intervals at {threshold(confidence)}" if confidence is not None else ""
    # A rule that was not reached has judged no row; the file has them all the same.
    rows = len(rule.rows) or experiment.data.splits["eval"].rows or 0
    return f"  * primary rule, {counted(rows, 'held-out row')}{level}{more}"


def slice_lines(experiment: RecordedExperiment) -> Iterator[tuple[str, str]]:
    """Yield a line for each sliced rule, and its colour: protected slices first, then the worst ones."""
    for rule in experiment.rules.values():
        slices = experiment.arms["tuned"].rules[rule.name].slices
        if not rule.slice or not slices:
            continue
        order = sorted(slices, key=lambda name: (not slices[name].protected, slices[name].gain or 0.0))
        more = f" and {len(order) - _MOST_SLICES} more" if len(order) > _MOST_SLICES else ""
        said = ", ".join(_slice(name, slices[name]) for name in order[:_MOST_SLICES])
        lost = any(part.verdict == "worse" for part in slices.values())
        yield f"  {one_line(rule.name)} by {one_line(rule.slice)}: {said}{more}", "red" if lost else ""


def _slice(name: str, part: Score) -> str:
    told = f"{100 * (part.gain or 0.0):+.1f}, {part.verdict or 'not judged'}"
    return f"{one_line(name, 20)} {percent(part.rate)} of {part.total or 0:g} ({told})"
