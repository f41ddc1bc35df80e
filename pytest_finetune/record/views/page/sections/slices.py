"""Where a rule holds and where not: by slice, and label by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import RuleFacts, Score
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Child, Html, element, folded, join, paragraph, table
from pytest_finetune.record.views.page.sections.breakdown import Places, row_links, row_places
from pytest_finetune.record.views.page.sections.evidence import badge
from pytest_finetune.wording import arm_word, gain_words, percent, rate_span

MOST_LABELS: Final = 24
MOST_METERS: Final = 3  # more arms than these need the room for their numbers
NO_LABEL: Final = "(no label)"

Counts = Mapping[str, Mapping[str, int]]


def slices(experiment: RecordedExperiment, anchor: str) -> Html | None:
    """Rates by slice of every rule that is sliced, else of the primary rule by tag; None where there is neither."""
    places = row_places(experiment, anchor)
    found = [_sliced(experiment, rule, places) for rule in experiment.rules.values() if rule.slice_rows]
    return join(found) if found else _by_tag(experiment, places)


def _sliced(experiment: RecordedExperiment, rule: RuleFacts, places: Places) -> Html:
    """The slices that the rule asked for: every arm's rate with its interval, the tuned arm's gain and finding."""
    arms, members = experiment.arms, rule.slice_rows
    slices = {arm: arms[arm].rules[rule.name].slices for arm in ("tuned", *arms)}
    tuned = slices["tuned"]
    rows: list[list[Child]] = []
    for name in sorted(members, key=lambda part: (not tuned[part].protected, -len(members[part]), part)):
        part = tuned[name]
        protected = element("span", "protected", class_="ft-kind") if part.protected else None
        told = [_score(slices[arm][name], with_meter=len(arms) <= MOST_METERS) for arm in arms]
        gain = element("span", gain_words(part.gain, part.gain_interval), class_="ft-nobreak")
        finding = badge(part.verdict or "not judged", calm=True)
        rows.append([join([name, " ", protected]), *told, gain, finding, row_links(members[name], places)])
    head = ["slice", *map(arm_word, arms), "gain over base", "finding", "rows"]
    note = "A protected slice fails the rule where the tuned model is demonstrably worse on it; the others are hints."
    dense = "ft-links ft-slices" + " ft-wide" * (len(arms) > MOST_METERS)
    caption = f"{rule.name} by {rule.slice or 'slice'}"
    return join([table(head, rows, caption, dense), paragraph("muted", note)])


def _score(score: Score, *, with_meter: bool) -> Child:
    if score.rate is None:
        return "not run"
    span = element("span", f" {rate_span(score.interval)}", class_="ft-muted ft-nobreak")
    return join([svg.meter(score.rate) if with_meter else None, f" {percent(score.rate)}", span])


def _by_tag(experiment: RecordedExperiment, places: Places) -> Html | None:
    """Rates of the primary rule by tag; None where no row has a tag."""
    rule, arms = experiment.primary, experiment.arms
    tags = {row.id: row.tags for row in experiment.held_out}
    names = sorted({tag for row in rule.rows for tag in tags.get(row, ())})
    rows: list[list[Child]] = []
    for name in names:
        chosen = [place for place, row in enumerate(rule.rows) if name in tags.get(row, ())]
        lines = row_links([rule.rows[place] for place in chosen], places)
        rows.append([name, *(_rate(rule.scores.get(arm, ()), chosen) for arm in arms), lines])
    if not rows:
        return None
    note = "Slices are small: read them as hints, the decision does not use them."
    grid = table(["tag", *map(arm_word, arms), "rows"], rows, f"{rule.name} by tag", "ft-links ft-slices")
    return join([grid, paragraph("muted", note)])


def _rate(scores: Sequence[float | None], chosen: Sequence[int]) -> Child:
    known = [score for place in chosen if place < len(scores) and (score := scores[place]) is not None]
    if not known:
        return "not run"
    rate = sum(known) / len(known)
    counts = element("span", f"{sum(known):g} of {len(known)}", class_="ft-muted ft-nobreak")
    return join([svg.meter(rate), f" {percent(rate)} ", counts])


def confusion(experiment: RecordedExperiment) -> Html | None:
    """For each rule that judges labels: what each arm said to each expected label; None where no rule does."""
    grids: list[Html] = []
    for rule in experiment.rules.values():
        arms = [arm for arm in experiment.arms if rule.confusion.get(arm)]
        many = len(arms) > MOST_METERS
        first = [arm for arm in arms if arm in ("baseline", "tuned")] if many else arms
        rest = [arm for arm in arms if arm not in first]
        grids += [_grids(rule, first)] if first else []
        if rest:
            title = f"{rule.name}: {', '.join(map(arm_word, rest))}"
            grids.append(folded(title, _grids(rule, rest), class_="ft-more"))
    if not grids:
        return None
    note = "Rows: the expected label. Columns: what was answered. The outlined cell is right; darker is more."
    return join([*grids, paragraph("muted ft-apart", note)])


def _grids(rule: RuleFacts, arms: Sequence[str]) -> Html:
    return element("div", *(_grid(rule.name, arm, rule.confusion[arm]) for arm in arms), class_="ft-pair")


def _grid(rule: str, arm: str, counts: Counts) -> Html:
    expected = sorted(counts)[:MOST_LABELS]
    given = {label for one in expected for label in counts[one]}
    columns = [*expected, *sorted(given - set(expected) - {""})][:MOST_LABELS]
    columns += [""] * ("" in given)
    rows: list[list[Child]] = [[one or NO_LABEL, *_cells(counts[one], columns, one)] for one in expected]
    head = ["expected", *(label or NO_LABEL for label in columns)]
    return table(head, rows, f"{rule}, answered by {arm_word(arm)}", "ft-confusion")


def _cells(answered: Mapping[str, int], columns: Sequence[str], right: str) -> list[Child]:
    total = sum(answered.values()) or 1
    return [_cell(answered.get(label, 0), total, label == right) for label in columns]


def _cell(count: int, total: int, right: bool) -> Html:
    """A count whose darkness is its share of the expected label, in five steps."""
    step = min(round(5 * count / total), 5)
    return element("span", f"{count:,}", class_=f"ft-share-{step}{' ft-right' if right else ''}")
