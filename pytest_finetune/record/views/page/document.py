"""The page: a static fragment for the summary of pytest-html's report.

It is whole without a script and fetches nothing; its one script narrows the held-out rows. The order is that of a
reader: verdict, evidence, rows, then what an auditor checks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Final

from pytest_finetune.record.headline import headline
from pytest_finetune.record.lenient import Json
from pytest_finetune.record.model import Recorded, RecordedExperiment, RecordedRun
from pytest_finetune.record.views.page.glossary import words
from pytest_finetune.record.views.page.html import Html, element, join, paragraph
from pytest_finetune.record.views.page.sections import (
    breakdown,
    data,
    drift,
    evidence,
    facts,
    gains,
    recipe,
    rows,
    slices,
    verdict,
)
from pytest_finetune.record.views.page.sections import run as work_done
from pytest_finetune.wording import one_line

Answers = Mapping[str, Mapping[str, Sequence[Json]]]

UNJUDGED: Final = {
    "data": "Data", "training": "Training", "memory": "Memory", "config": "Configuration", "lineage": "Lineage",
}  # fmt: skip
SECTIONS: Final = {
    "rates": "Arms", "gains": "Gains", "power": "Power", "runtimes": "Runtimes", "drift": "Drift",
    "training": "Training", "memory": "Memory", "data": "Data", "rows": "Rows",
    "config": "Configuration", "lineage": "Lineage",
}  # fmt: skip


def summary_html(record: Recorded, answers: Answers) -> str:
    """Render the record and the raw `answers` by experiment and arm as one HTML fragment with its styles."""
    run = RecordedRun.of(record)
    anchors = [f"ft-{place}" for place, _ in enumerate(run.experiments, start=1)]
    # pytest-html names no viewport; without one a phone lays the page out for a desktop.
    viewport = element("meta", name="viewport", content="width=device-width, initial-scale=1")
    parts = [viewport, element("style", Html(asset("style.css") + page_css()))]
    parts += [paragraph("alert", note) for note in run.notes]
    if not anchors:
        parts.append(paragraph("missing", "No experiment was run."))
    elif len(anchors) > 1:
        parts.append(verdict.overview(run, anchors))
    for experiment, anchor in zip(run.experiments, anchors, strict=True):
        own = answers.get(experiment.name) or {}
        parts.append(element("article", _experiment(experiment, run, own, anchor), class_="ft-experiment"))
    parts.append(_section("ft-tests", "Tests of the session", facts.tests(run)))
    parts += [words(), element("script", Html(asset("filter.js")))]
    return element("div", *parts, class_="ft", lang="en")


def page_css() -> str:
    """The styles that put pytest-html's page in order: our summary above its environment, both themes.

    `summary_html` carries them already.
    """
    return asset("page.css")


def page_title(record: Recorded) -> str:
    """Name the page after its verdict, as plain text: pytest-html escapes titles."""
    run = RecordedRun.of(record)
    project, said = (
        one_line(run.project or "pytest-finetune", 60),
        [headline(one, run) for one in run.experiments],
    )
    if len(said) == 1:
        return f"{said[0].word}: {one_line(run.experiments[0].title, 80)} ({project})"
    words = [one.word for one in said]
    counts = ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))
    return f"{len(said)} experiments: {counts} ({project})" if said else f"No experiment ({project})"


def _experiment(
    experiment: RecordedExperiment, run: RecordedRun, answers: Mapping[str, Sequence[Json]], anchor: str
) -> Html:
    judged = bool(experiment.arms)
    rows_read = _section(f"{anchor}-data", "Data", data.data(experiment))
    work = _pair(
        _section(f"{anchor}-training", "Training", _training(experiment)),
        _section(f"{anchor}-memory", "Memory", work_done.memory(experiment.memory)),
    )
    if judged:
        body = [*_evaluated(experiment, anchor), work, rows_read]
        body.append(_section(f"{anchor}-rows", "Held-out rows", rows.rows(experiment, answers, anchor)))
    else:
        stopped = facts.failures(experiment, run)
        body = [part for part in (stopped, rows_read, work) if part is not None]
        body.append(_section(f"{anchor}-rates", "Evidence", evidence.rates(experiment)))
    return join(
        [
            verdict.banner(experiment, run, anchor, answers),
            _contents(experiment, anchor, SECTIONS if judged else UNJUDGED),
            *body,
            _pair(
                _section(f"{anchor}-charter", "Charter", facts.charter(experiment)),
                _section(f"{anchor}-environment", "Environment", facts.environment(experiment)),
            ),
            _section(f"{anchor}-config", "Configuration", facts.config(experiment)),
            _section(f"{anchor}-lineage", "Lineage", facts.lineage(experiment)),
            _section(f"{anchor}-repeat", "Repeat this run", facts.repeat(experiment, run)),
        ]
    )


def _training(experiment: RecordedExperiment) -> Html:
    return join([work_done.training(experiment.training), work_done.timings(experiment.timings)])


def _evaluated(experiment: RecordedExperiment, anchor: str) -> list[Html]:
    """What there is to see of the arms; a part that a run does not have is left out."""
    parts: list[tuple[str, str, Html | None]] = [
        ("rates", "Arms side by side", evidence.rates(experiment)),
        ("format", "Format apart from judgement", evidence.formats(experiment)),
        ("gains", "What the tuning gained", gains.gains(experiment)),
        ("recipe", "The recipe", recipe.recipe(experiment)),
        ("power", "Power, looks and risks", evidence.power(experiment)),
        ("changed", "Fixed and broken rows", breakdown.changed_rows(experiment, anchor)),
        ("slices", "Slices", slices.slices(experiment, anchor)),
        ("labels", "Label confusion", slices.confusion(experiment)),
        ("runtimes", "Runtimes", breakdown.runtimes(experiment, anchor)),
        ("pairs", "The other arms against each other", gains.pairs(experiment)),
        ("drift", "Drift on neutral prompts", drift.drift(experiment.drift)),
    ]
    opponents = [
        ("prompts", "Hand-written prompts", evidence.prompts(experiment)),
        ("noise", "Noise of the base", breakdown.noise(experiment, anchor)),
        ("judges", "Judges", breakdown.judges(experiment, anchor)),
    ]
    return [*_sections(anchor, parts), _pair(*_sections(anchor, opponents))]


def _sections(anchor: str, parts: Sequence[tuple[str, str, Html | None]]) -> list[Html]:
    return [_section(f"{anchor}-{name}", title, body) for name, title, body in parts if body is not None]


def _pair(*sections: Html) -> Html:
    return element("div", *sections, class_="ft-pair")


def _contents(experiment: RecordedExperiment, anchor: str, names: Mapping[str, str]) -> Html:
    found = {"drift": experiment.drift, "runtimes": experiment.runtime_match}
    absent = {name for name, part in found.items() if not part}
    links = [
        element("a", short, href=f"#{anchor}-{name}") for name, short in names.items() if name not in absent
    ]
    label = f"Sections of {experiment.name or 'this experiment'}"
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
