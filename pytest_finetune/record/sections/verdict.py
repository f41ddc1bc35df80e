"""The opening of the page: the verdict, its sentence, the next change and five numbers."""

from __future__ import annotations

from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.headline import Headline, headline
from pytest_finetune.record.html import Child, Html, element, facts, join, table
from pytest_finetune.record.reading import Json
from pytest_finetune.record.wording import (
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

SYMBOLS: Final = {"good": "✓", "warn": "↻", "bad": "✕", "none": "–"}


def banner(experiment: Json, record: Json, anchor: str) -> Html:
    """Open an experiment: verdict, sentence, next change, then the numbers that carry it."""
    said = headline(experiment, record)
    name = reading.text(experiment, "task", reading.text(experiment, "name", "experiment"))
    head = element(
        "h2",
        element(
            "span", element("span", SYMBOLS[said.tone], aria_hidden="true"), f" {said.word}", class_="ft-word"
        ),
        " ",
        element("span", name, class_="ft-task"),
        id=anchor,
    )
    opened = element(
        "header",
        head,
        element("p", said.reason, class_="ft-reason"),
        _further(said),
        _risks(said),
        _change(said),
        element("p", _about(experiment, record), class_="ft-about"),
        class_=f"ft-banner ft-{said.tone}",
    )
    return join([opened, tiles(experiment)])


def _change(said: Headline) -> Html | None:
    if not said.change:
        return None
    because = element("span", f" because {said.because}", class_="ft-muted") if said.because else None
    return element("p", element("strong", "Next change: "), said.change, because, class_="ft-change")


def _further(said: Headline) -> Html | None:
    reasons = [element("li", reason) for reason in said.further]
    return element("ul", *reasons, class_="ft-reasons") if reasons else None


def _risks(said: Headline) -> Html | None:
    lines = [element("p", element("strong", "Risk: "), risk, class_="ft-change") for risk in said.risks]
    return join(lines) if lines else None


def _about(experiment: Json, record: Json) -> Html:
    config, lora = reading.part(experiment, "config"), reading.part(experiment, "config", "lora")
    method = reading.text(config, "peft_method", "unknown method")
    rank = f", rank {reading.text(lora, 'r')}" if lora.get("r") is not None else ""
    when = reading.text(record, "created", "at an unknown time").replace("T", " ")
    rows = reading.number(reading.part(experiment, "data", "eval"), "rows")
    said: list[Child] = [
        join([element("code", reading.text(config, "base_model", "unknown base")), f" with {method}{rank}"]),
        counted(rows, "held-out row"),
        when,
        element("code", reading.text(record, "command", "unknown command")),
    ]
    return join(said, " · ")


def tiles(experiment: Json) -> Html:
    """The numbers that a reader asks for first; what a run did not get to is left out."""
    main = reading.primary(experiment)
    pairs = [one for one in reading.comparisons(experiment) if main is not None and one.get("rule") == main]
    found: list[tuple[str, Child]] = _rates(experiment, main) if main is not None else []
    found += [
        (f"{main}, gain over {arm_word(reading.text(pair, 'against'))}", _gain(experiment, pair))
        for pair in pairs
    ]
    for pair in pairs[:1]:
        fixed, broken = len(reading.listed(pair, "fixed")), len(reading.listed(pair, "broken"))
        against = arm_word(reading.text(pair, "against"))
        found.append((f"rows, against {against}", _tile(f"{fixed} fixed", f"{broken} broken")))
    training, memory = reading.part(experiment, "training"), reading.part(experiment, "memory")
    if training:
        how = "reused" if training.get("reused") else duration(reading.number(training, "seconds"))
        found.append(("training", _tile(how, counted(reading.number(training, "steps"), "step"))))
    if memory:
        peak, budget = (reading.number(memory, key) for key in ("predicted_peak_bytes", "budget_bytes"))
        of = f"of {size(budget)}, {reading.text(memory, 'fits', 'not judged')}"
        found.append(("peak memory, predicted", _tile(size(peak), of)))
    return facts(found, "ft-tiles")


def _rates(experiment: Json, main: str) -> list[tuple[str, Child]]:
    """The primary rule's rate before and after."""
    base, tuned = (reading.part(experiment, "arms", arm, "rules", main) for arm in ("baseline", "tuned"))
    before, after = (reading.number(score, "rate") for score in (base, tuned))
    if before is None or after is None:
        return []
    counts = (
        f"{figure(reading.number(tuned, 'passed'), 6)} of {figure(reading.number(tuned, 'total'), 6)} rows"
    )
    return [(f"{main}, base to tuned", _tile(f"{percent(before)} → {percent(after)}", counts))]


def _gain(experiment: Json, pair: Json) -> Html:
    wanted = reading.number(reading.part(experiment, "rules", reading.text(pair, "rule")), "min_gain")
    below = gain_span(reading.span(pair, "interval"))
    wish = f", wanted {margin(wanted)}" if wanted is not None and pair.get("against") == "baseline" else ""
    return _tile(points(reading.number(pair, "gain")), f"{below}{wish}")


def _tile(value: str, below: str) -> Html:
    return join([element("span", value, class_="ft-value"), element("span", below, class_="ft-muted")])


def overview(record: Json, anchors: list[str]) -> Html:
    """One table of experiments by rules; it stands first where there are several."""
    runs = reading.experiments(record)
    names = list(dict.fromkeys(name for run in runs for name in reading.rules(run)))
    rows = []
    for run, anchor in zip(runs, anchors, strict=True):
        said = headline(run, record)
        link = element("a", reading.text(run, "name", "experiment"), href=f"#{anchor}")
        word = element("span", f"{SYMBOLS[said.tone]} {said.word}", class_=f"ft-badge ft-{said.tone}")
        rows.append([link, word, *(_cell(run, name) for name in names), said.reason])
    head: list[Child] = ["experiment", "verdict", *names, "because"]
    title = element("h2", f"{len(runs)} experiments", id="ft-overview")
    note = element("p", "Each cell: the tuned model's rate, and its gain over the base.", class_="ft-muted")
    return element("section", title, note, table(head, rows, "Experiments by rules"), class_="ft-overview")


def _cell(run: Json, name: str) -> Html | str:
    rate = reading.number(reading.part(run, "arms", "tuned", "rules", name), "rate")
    if rate is None:
        return "not run"
    over_base = (
        p for p in reading.comparisons(run) if (p.get("rule"), p.get("against")) == (name, "baseline")
    )
    gain = reading.number(next(over_base, {}), "gain")
    return join(
        [percent(rate), element("span", points(gain), class_="ft-note") if gain is not None else None]
    )
