"""The numbers that a reader asks for first, at most seven."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page.html import Child, Html, element, facts, join
from pytest_finetune.wording import (
    arm_word,
    counted,
    duration,
    figure,
    gain_span,
    margin,
    percent,
    points,
    size,
)

Tile = tuple[str, Child]

_MOST_GAINS: Final = 2


def tiles(experiment: Json) -> Html:
    """Rates before and after, gains, rows, runtime, training, memory; what a run did not get to is left out."""
    main = reading.primary(experiment)
    found: list[Tile] = []
    if main is not None:
        found += [*_rates(experiment, main), *_gains(experiment, main), *_runtime(experiment, main)]
    return facts([*found, *_training(experiment), *_memory(experiment)], "ft-tiles")


def _rates(experiment: Json, main: str) -> Iterator[Tile]:
    """The primary rule's rate before and after."""
    base, tuned = (reading.part(experiment, "arms", arm, "rules", main) for arm in ("baseline", "tuned"))
    before, after = (reading.number(score, "rate") for score in (base, tuned))
    if before is not None and after is not None:
        passed, total = (figure(reading.number(tuned, key), 6) for key in ("passed", "total"))
        yield (
            f"{main}, base to tuned",
            _tile(f"{percent(before)} → {percent(after)}", f"{passed} of {total} rows"),
        )


def _gains(experiment: Json, main: str) -> Iterator[Tile]:
    """The gain over the base and over the other opponents; of many, the smallest one stands for all."""
    pairs = [
        pair
        for pair in reading.comparisons(experiment)
        if pair.get("rule") == main and reading.is_opponent(experiment, reading.text(pair, "against"))
    ]
    shown = pairs if len(pairs) <= _MOST_GAINS else pairs[:1]
    for pair in shown:
        yield (
            f"gain over {arm_word(reading.text(pair, 'against'))}",
            _tile(
                points(reading.number(pair, "gain")),
                gain_span(reading.span(pair, "interval")),
                _wish(experiment, pair),
            ),
        )
    rest = [pair for pair in pairs[len(shown) :] if reading.number(pair, "gain") is not None]
    if rest:
        least = min(rest, key=lambda pair: reading.number(pair, "gain") or 0.0)
        over = f"over {arm_word(reading.text(least, 'against'))}"
        span = gain_span(reading.span(least, "interval"))
        yield (
            f"smallest of {len(rest)} further gains",
            _tile(points(reading.number(least, "gain")), span, over),
        )
    for pair in pairs[:1]:
        fixed, broken = (len(reading.listed(pair, key)) for key in ("fixed", "broken"))
        against = arm_word(reading.text(pair, "against"))
        yield f"rows, against {against}", _tile(f"{fixed} fixed", f"{broken} broken")


def _wish(experiment: Json, pair: Json) -> str:
    wanted = reading.number(reading.part(experiment, "rules", reading.text(pair, "rule")), "min_gain")
    return f"wanted {margin(wanted)}" if wanted is not None and pair.get("against") == "baseline" else ""


def _runtime(experiment: Json, main: str) -> Iterator[Tile]:
    """How far the first further runtime scores like the one that the decision was made in."""
    for match in reading.parts(experiment, "runtime_match")[:1]:
        same = reading.part(match, "rules", main)
        if same:
            first, second = (reading.text(match, key, "unknown") for key in ("first", "second"))
            alike = f"{reading.text(same, 'same')} of {reading.text(same, 'total')}"
            yield f"scores in {second}", _tile(alike, f"like in {first}")


def _training(experiment: Json) -> Iterator[Tile]:
    training = reading.part(experiment, "training")
    if training:
        how = "reused" if training.get("reused") else duration(reading.number(training, "seconds"))
        elsewhere = "from another environment" if training.get("reuse") == "semantic" else ""
        yield "training", _tile(how, counted(reading.number(training, "steps"), "step"), elsewhere)


def _memory(experiment: Json) -> Iterator[Tile]:
    memory = reading.part(experiment, "memory")
    if memory:
        peak, budget = (reading.number(memory, key) for key in ("predicted_peak_bytes", "budget_bytes"))
        of = f"of {size(budget)}, {reading.text(memory, 'fits', 'not judged')}"
        yield "predicted memory", _tile(size(peak), of)


def _tile(value: str, *below: str) -> Html:
    lines = [element("span", line, class_="ft-note") for line in below if line]
    return join([element("span", value, class_="ft-value"), *lines])
