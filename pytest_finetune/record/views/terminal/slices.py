"""Slices of the rules as lines of the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.wording import one_line, percent

_SHOWN = 4


def slice_lines(experiment: Json) -> Iterator[tuple[str, str]]:
    """Yield a line for each sliced rule, and its colour: protected slices first, then the worst ones."""
    for name in reading.rules(experiment):
        rule = reading.part(experiment, "rules", name)
        slices = reading.part(experiment, "arms", "tuned", "rules", name, "slices")
        if not rule.get("slice") or not slices:
            continue
        order = sorted(slices, key=lambda part: _rank(reading.part(slices, part)))
        more = f" and {len(order) - _SHOWN} more" if len(order) > _SHOWN else ""
        said = ", ".join(_slice(part, reading.part(slices, part)) for part in order[:_SHOWN])
        lost = any(reading.part(slices, part).get("verdict") == "worse" for part in order)
        yield f"  {one_line(name)} by {one_line(rule['slice'])}: {said}{more}", "red" if lost else ""


def _rank(part: Json) -> tuple[bool, float]:
    return not part.get("protected"), reading.number(part, "gain") or 0.0


def _slice(name: str, part: Json) -> str:
    gain = 100 * (reading.number(part, "gain") or 0.0)
    verdict = reading.text(part, "verdict", "not judged")
    rate, rows = percent(reading.number(part, "rate")), reading.number(part, "total") or 0
    return f"{one_line(name, 20)} {rate} of {rows:g} ({gain:+.1f}, {verdict})"
