"""The rows behind the numbers: those that changed, those on which runtimes differ, the noise of the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import Agreement, Moved
from pytest_finetune.record.views.page.html import Child, Html, element, folded, join, paragraph, table
from pytest_finetune.record.views.page.sections.evidence import with_span
from pytest_finetune.wording import arm_word, counted, gain_span, gain_words, percent, points, rate_span

MOST_LINKS: Final = 200
NOTE: Final = (
    "A row whose score differs is never counted as fixed, and where it looks broken it supports no discard."
)
Places = Mapping[str, tuple[str, str]]


def row_places(experiment: RecordedExperiment, anchor: str) -> Places:
    """Give each held-out row its place on the page and a short name: its line, with its file among several."""
    several = len({row.file for row in experiment.held_out}) > 1
    places: dict[str, tuple[str, str]] = {}
    for place, row in enumerate(experiment.held_out, start=1):
        file, line = row.file.rsplit("/", 1)[-1], "" if row.line is None else str(row.line)
        short = f"{file}:{line}" if several and line and file else line or row.id
        places.setdefault(row.id, (f"{anchor}-row-{place}", short))
    return places


def row_links(ids: Sequence[str], places: Places) -> Html:
    """Link rows by their lines, in the order of the file; long lists are folded and end at 200."""
    order = {name: at for at, name in enumerate(places)}
    known = sorted((row for row in ids if row in places), key=order.__getitem__)
    links = [element("a", places[row][1], href=f"#{places[row][0]}") for row in known[:MOST_LINKS]]
    more = f" and {counted(len(ids) - len(links), 'more row')}" if len(ids) > len(links) else None
    listed = element("span", join(links, " "), more, class_="ft-lines")
    if len(ids) <= 12:
        return listed if ids else element("span", "none", class_="ft-muted")
    return folded(counted(len(ids), "row"), listed)


def changed_rows(experiment: RecordedExperiment, anchor: str) -> Html | None:
    """Every row that the tuning fixed or broke, by rule and opponent, each a link to its answers."""
    places, main = row_places(experiment, anchor), experiment.primary
    first: list[list[Child]] = []
    rest: list[list[Child]] = []
    for pair in experiment.over_other_models:
        if pair.broken or pair.fixed:
            name = f"{pair.rule or 'unnamed rule'} over {arm_word(pair.against or 'an unknown arm')}"
            rows = first if not main or pair.rule == main.name else rest
            rows.append([name, row_links(pair.broken, places), row_links(pair.fixed, places)])
    if not first and not rest:
        return None
    further = "Rows that the tuning changed under the further rules"
    return join(
        [
            _changed_table(first, "Rows that the tuning changed")
            if first
            else element("p", f"The tuning changed no row under {main.name}."),
            paragraph("muted", "Numbers are lines of the held-out file; each leads to the answers."),
            folded("Under the further rules", _changed_table(rest, further), class_="ft-more")
            if rest
            else None,
        ]
    )


def _changed_table(rows: list[list[Child]], caption: str) -> Html:
    return table(["rule", "broken", "fixed"], rows, caption, "ft-links ft-compact")


def runtimes(experiment: RecordedExperiment, anchor: str) -> Html | None:
    """How far the tuned arm agrees between runtimes, a table each; None where one runtime was used."""
    places = row_places(experiment, anchor)
    grids = []
    for match in experiment.runtime_match:
        rules = sorted(match.rules, key=experiment.place_of_rule)
        named = [("raw text", match.text), *((f"score, {rule}", match.rules[rule]) for rule in rules)]
        rows: list[list[Child]] = [[what, *_agreed(found, places)] for what, found in named]
        caption = f"The tuned model in {match.second or 'unknown'}, against {match.first or 'unknown'}"
        grids.append(table(["what", "alike", "rows that differ"], rows, caption, "ft-links ft-compact"))
        moves = [_moved_row(rule, match.moved[rule], places) for rule in rules if match.moved[rule].total]
        if moves:
            caption = f"From {match.first or 'unknown'} to {match.second or 'unknown'}, paired by row"
            grids.append(
                table(
                    ["rule", "change, 95% interval", "worse", "better"], moves, caption, "ft-links ft-compact"
                )
            )
        if match.cause:
            grids.append(paragraph("muted", f"Look first at this: {match.cause}."))
    return join(grids) if grids else None


def _moved_row(rule: str, moved: Moved, places: Places) -> list[Child]:
    change = with_span(points(moved.gain), gain_span(moved.interval))
    return [f"score, {rule}", change, row_links(moved.worse, places), row_links(moved.better, places)]


def _agreed(found: Agreement, places: Places) -> list[Child]:
    alike = element("span", f"{found.same} of {found.total}", class_="ft-nobreak")
    return [alike, row_links(found.rows, places)]


def noise(experiment: RecordedExperiment, anchor: str) -> Html | None:
    """Each further run of the base with the texts that changed, each rule with the scores; None where it ran once."""
    runs = experiment.noise
    if not runs:
        return None
    places = row_places(experiment, anchor)
    texts = {
        f"text, run {name}": runs[name].changed for name in sorted(runs, key=lambda name: (len(name), name))
    }
    scores = {f"score, {rule.name}": rule.noisy_rows for rule in experiment.rules.values() if rule.noise}
    found: dict[str, Sequence[str]] = {**texts, **scores}
    asked = counted(len(runs) + 1, "time")
    if not any(found.values()):
        return element("p", f"The base was asked {asked}: every text and every score stayed the same.")
    rows: list[list[Child]] = [[what, str(len(ids)), row_links(ids, places)] for what, ids in found.items()]
    caption = f"The base, asked {asked}: rows that differ between its runs"
    grid = table(["what", "rows that differ", "which"], rows, caption, "ft-links ft-compact")
    return join([grid, paragraph("muted", NOTE)])


def judges(experiment: RecordedExperiment, anchor: str) -> Html | None:
    """Each judge: the rows on which it contradicts itself, and how far people agree with it; None without a judge."""
    judged = [rule for rule in experiment.rules.values() if rule.verdicts]
    if not judged:
        return None
    places = row_places(experiment, anchor)
    wavering: list[list[Child]] = [
        [rule.name, rule.verdicts.judge, row_links(rule.verdicts.contradicted, places)] for rule in judged
    ]
    checked: list[list[Child]] = [
        [
            f"{rule.name}, {arm_word(arm)}",
            str(found.labels or 0),
            f"{percent(found.agreement)} {rate_span(found.interval)}" if found.labels else "not checked",
            gain_words(found.bias, found.bias_interval) if found.labels else "unknown",
        ]
        for rule in judged
        for arm, found in rule.verdicts.agreement.items()
    ]
    rows = table(
        ["rule", "judge", "contradicts itself on"], wavering, "Judges, asked twice", "ft-links ft-compact"
    )
    people = table(
        ["rule and arm", "labels", "agrees with people", "gives too much"],
        checked,
        "Judges beside people's labels",
    )
    return join([rows, people])
