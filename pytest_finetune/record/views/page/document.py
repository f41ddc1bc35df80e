"""The page: a static fragment for the summary of pytest-html's report.

It is whole without a script and fetches nothing; its one script narrows the held-out rows. The order is that of a
reader: verdict, evidence, rows, then what an auditor checks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.headline import headline
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page.html import Html, element, join
from pytest_finetune.record.views.page.sections import (
    breakdown,
    data,
    drift,
    evidence,
    facts,
    gains,
    noise,
    pairs,
    prompts,
    rows,
    run,
    slices,
    verdict,
)
from pytest_finetune.wording import one_line

Answers = Mapping[str, Mapping[str, Sequence[Json]]]

UNJUDGED: Final = {
    "data": "Data", "training": "Training", "memory": "Memory", "config": "Configuration", "lineage": "Lineage",
}  # fmt: skip
SECTIONS: Final = {
    "rates": "Arms", "gains": "Gains", "power": "Power", "drift": "Drift", "training": "Training",
    "memory": "Memory", "data": "Data", "rows": "Rows", "config": "Configuration", "lineage": "Lineage",
}  # fmt: skip


def summary_html(record: Json, answers: Answers) -> str:
    """Render the record and the raw `answers` by experiment and arm as one HTML fragment with its styles."""
    runs = reading.experiments(record)
    anchors = [f"ft-{place}" for place in range(1, len(runs) + 1)]
    # pytest-html names no viewport; without one a phone lays the page out for a desktop.
    viewport = element("meta", name="viewport", content="width=device-width, initial-scale=1")
    parts = [viewport, element("style", Html(asset("style.css") + page_css()))]
    parts += [element("p", str(note), class_="ft-alert") for note in reading.listed(record, "notes")]
    if len(runs) != 1:
        parts.append(
            verdict.overview(record, anchors)
            if runs
            else element("p", "No experiment was run.", class_="ft-missing")
        )
    for experiment, anchor in zip(runs, anchors, strict=True):
        own = answers.get(reading.text(experiment, "name")) or {}
        parts.append(element("article", _experiment(experiment, record, own, anchor), class_="ft-experiment"))
    parts.append(_section("ft-tests", "Tests of the session", facts.tests(record)))
    parts.append(element("script", Html(asset("filter.js"))))
    return element("div", *parts, class_="ft", lang="en")


def page_css() -> str:
    """The styles that put pytest-html's page in order: our summary above its environment, both themes.

    `summary_html` carries them already.
    """
    return asset("page.css")


def page_title(record: Json) -> str:
    """Name the page after its verdict, as plain text: pytest-html escapes titles."""
    runs = reading.experiments(record)
    project = one_line(reading.text(record, "project", "pytest-finetune"), 60)
    if len(runs) == 1:
        said = headline(runs[0], record)
        task = one_line(reading.text(runs[0], "task", reading.text(runs[0], "name", "experiment")), 80)
        return f"{said.word}: {task} ({project})"
    words = [headline(one, record).word for one in runs]
    counts = ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))
    return f"{len(runs)} experiments: {counts} ({project})" if runs else f"No experiment ({project})"


def _experiment(experiment: Json, record: Json, answers: Mapping[str, Sequence[Json]], anchor: str) -> Html:
    judged = bool(reading.arms(experiment))
    rows_read = _section(f"{anchor}-data", "Data", data.data(experiment))
    work = _pair(
        _section(f"{anchor}-training", "Training", run.training(experiment)),
        _section(f"{anchor}-memory", "Memory", run.memory(experiment)),
    )
    if judged:
        body = [*_evaluated(experiment, anchor), work, rows_read]
        body.append(_section(f"{anchor}-rows", "Held-out rows", rows.rows(experiment, answers, anchor)))
    else:
        stopped = facts.failures(experiment, record)
        body = [part for part in (stopped, rows_read, work) if part is not None]
        body.append(_section(f"{anchor}-rates", "Evidence", evidence.rates(experiment)))
    return join(
        [
            verdict.banner(experiment, record, anchor),
            _contents(experiment, anchor, SECTIONS if judged else UNJUDGED),
            *body,
            _pair(
                _section(f"{anchor}-charter", "Charter", facts.charter(experiment)),
                _section(f"{anchor}-environment", "Environment", facts.environment(experiment)),
            ),
            _section(f"{anchor}-config", "Configuration", facts.config(experiment)),
            _section(f"{anchor}-lineage", "Lineage", facts.lineage(experiment)),
            _section(f"{anchor}-repeat", "Repeat this run", facts.repeat(experiment, record)),
        ]
    )


def _evaluated(experiment: Json, anchor: str) -> list[Html]:
    """What there is to see of the arms; a part that a run does not have is left out."""
    parts: list[tuple[str, str, Html | None]] = [
        ("rates", "Arms side by side", evidence.rates(experiment)),
        ("gains", "What the tuning gained", gains.gains(experiment)),
        ("power", "Power, looks and risks", breakdown.power(experiment)),
        ("changed", "Fixed and broken rows", breakdown.changed_rows(experiment, anchor)),
        ("slices", "Slices", slices.slices(experiment, anchor)),
        ("labels", "Label confusion", slices.confusion(experiment)),
        ("runtimes", "Runtimes", breakdown.runtimes(experiment, anchor)),
        ("pairs", "The other arms against each other", pairs.pairs(experiment)),
        ("drift", "Drift on neutral prompts", drift.drift(experiment)),
    ]
    opponents = [
        ("prompts", "Hand-written prompts", prompts.prompts(experiment)),
        ("noise", "Noise of the base", noise.noise(experiment, anchor)),
    ]
    return [*_sections(anchor, parts), _pair(*_sections(anchor, opponents))]


def _sections(anchor: str, parts: Sequence[tuple[str, str, Html | None]]) -> list[Html]:
    return [_section(f"{anchor}-{name}", title, body) for name, title, body in parts if body is not None]


def _pair(*sections: Html) -> Html:
    return element("div", *sections, class_="ft-pair")


def _contents(experiment: Json, anchor: str, names: Mapping[str, str]) -> Html:
    absent = set() if reading.part(experiment, "drift") else {"drift"}
    links = [
        element("a", short, href=f"#{anchor}-{name}") for name, short in names.items() if name not in absent
    ]
    label = f"Sections of {reading.text(experiment, 'name', 'this experiment')}"
    return element("nav", join(links, " "), aria_label=label, class_="ft-contents")


def _section(anchor: str, title: str, body: Html) -> Html:
    """Put a part under its title; its name for a screen reader begins with that of the experiment."""
    experiment = anchor.rpartition("-")[0]
    names = anchor if experiment == "ft" else f"{experiment} {anchor}"
    return element(
        "section", element("h3", title, id=anchor), body, aria_labelledby=names, class_="ft-section"
    )


def asset(name: str) -> str:
    """Read a style sheet or script of ours without its comments and line breaks."""
    source = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)).strip()
