"""The opening of the page: the verdict, its sentence, the next change and five numbers."""

from __future__ import annotations

from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.headline import Headline, headline
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page.html import Child, Html, element, join, table
from pytest_finetune.record.views.page.sections.tiles import tiles
from pytest_finetune.wording import counted, percent, points

SYMBOLS: Final = {"good": "✓", "warn": "↻", "bad": "✕", "none": "–"}


def banner(experiment: Json, record: Json, anchor: str) -> Html:
    """Open an experiment: verdict, sentence, next change, then the numbers that carry it."""
    said = headline(experiment, record)
    name = reading.text(experiment, "name", "experiment")
    task = reading.text(experiment, "task", name)
    if len(reading.experiments(record)) > 1 and task != name:
        task = f"{name}: {task}"
    head = element(
        "h2",
        element(
            "span", element("span", SYMBOLS[said.tone], aria_hidden="true"), f" {said.word}", class_="ft-word"
        ),
        " ",
        element("span", task, class_="ft-task"),
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
    change = element("p", element("strong", "Next change: "), said.change, because)
    return element("div", change, class_="ft-change")


def _further(said: Headline) -> Html | None:
    """The reasons after the first; a keep has many that say the same of each opponent, so its list is folded."""
    if not said.further:
        return None
    listed = element("ul", *(element("li", reason) for reason in said.further), class_="ft-reasons")
    if said.tone != "good" or len(said.further) <= 2:
        return listed
    title = element("summary", f"and {counted(len(said.further), 'further reason')}")
    return element("details", title, listed, class_="ft-further")


def _risks(said: Headline) -> Html | None:
    if not said.risks or said.tone != "good":
        return None  # what is kept will be served; of the rest the section on power tells the risks
    lines = [element("p", element("strong", "Risk: "), risk) for risk in said.risks]
    return element("div", *lines, class_="ft-change")


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
        [
            percent(rate),
            element("span", points(gain), class_="ft-note ft-nobreak") if gain is not None else None,
        ]
    )
