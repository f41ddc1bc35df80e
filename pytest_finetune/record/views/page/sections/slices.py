"""Where a rule holds and where not: by slice, and label by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Child, Html, element, join, table
from pytest_finetune.record.views.page.sections.breakdown import row_links, row_places
from pytest_finetune.record.views.page.sections.evidence import badge
from pytest_finetune.wording import arm_word, gain_words, percent, rate_span

MOST_LABELS: Final = 24
MOST_METERS: Final = 3  # more arms than these need the room for their numbers
NO_LABEL: Final = "(no label)"


def slices(experiment: Json, anchor: str) -> Html | None:
    """Rates by slice of every rule that is sliced, else of the primary rule by tag; None where there is neither."""
    places = row_places(experiment, anchor)
    sliced = [
        name for name in reading.rules(experiment) if reading.part(experiment, "rules", name, "slice_rows")
    ]
    found = [_sliced(experiment, name, places) for name in sliced]
    if not found:
        by_tag = _by_tag(experiment, places)
        return None if by_tag is None else by_tag
    return join(found)


def _sliced(experiment: Json, name: str, places: Mapping[str, tuple[str, str]]) -> Html:
    """The slices that the rule asked for: every arm's rate with its interval, the tuned arm's gain and finding."""
    rule, arms = reading.part(experiment, "rules", name), reading.arms(experiment)
    members = reading.part(rule, "slice_rows")
    tuned = reading.part(experiment, "arms", "tuned", "rules", name, "slices")
    names = sorted(
        members, key=lambda part: (not reading.part(tuned, part).get("protected"), -len(members[part]), part)
    )
    rows: list[list[Child]] = []
    for part in names:
        about = reading.part(tuned, part)
        shown = join(
            [part, " ", element("span", "protected", class_="ft-kind") if about.get("protected") else None]
        )
        scores = [reading.part(experiment, "arms", arm, "rules", name, "slices", part) for arm in arms]
        gain = element(
            "span",
            gain_words(reading.number(about, "gain"), reading.span(about, "gain_interval")),
            class_="ft-nobreak",
        )
        finding = badge(reading.text(about, "verdict", "not judged"), calm=True)
        told = [_score(score, with_meter=len(arms) <= MOST_METERS) for score in scores]
        rows.append([shown, *told, gain, finding, row_links(reading.listed(members, part), places)])
    head = ["slice", *map(arm_word, arms), "gain over base", "finding", "rows"]
    note = "A protected slice fails the rule where the tuned model is demonstrably worse on it; the others are hints."
    by = reading.text(rule, "slice", "slice")
    dense = "ft-links ft-slices" + " ft-wide" * (len(arms) > MOST_METERS)
    return join([table(head, rows, f"{name} by {by}", dense), element("p", note, class_="ft-muted")])


def _score(score: Json, *, with_meter: bool) -> Child:
    rate = reading.number(score, "rate")
    if rate is None:
        return "not run"
    span = element("span", f" {rate_span(reading.span(score, 'interval'))}", class_="ft-muted ft-nobreak")
    return join([svg.meter(rate) if with_meter else None, f" {percent(rate)}", span])


def _by_tag(experiment: Json, places: Mapping[str, tuple[str, str]]) -> Html | None:
    """Rates of the primary rule by tag; None where no row has a tag."""
    main = reading.primary(experiment)
    if main is None:
        return None
    rule, arms = reading.part(experiment, "rules", main), reading.arms(experiment)
    tags = {
        reading.text(row, "id"): [str(tag) for tag in reading.listed(row, "tags")]
        for row in reading.parts(experiment, "held_out")
    }
    ids = [str(row) for row in reading.listed(rule, "rows")]
    names = sorted({tag for row in ids for tag in tags.get(row, [])})
    rows: list[list[Child]] = []
    for name in names:
        chosen = [place for place, row in enumerate(ids) if name in tags.get(row, [])]
        lines = row_links([ids[place] for place in chosen], places)
        rows.append([name, *(_rate(rule, arm, chosen) for arm in arms), lines])
    if not rows:
        return None
    note = "Slices are small: read them as hints, the decision does not use them."
    grid = table(["tag", *map(arm_word, arms), "rows"], rows, f"{main} by tag", "ft-links ft-slices")
    return join([grid, element("p", note, class_="ft-muted")])


def _rate(rule: Json, arm: str, chosen: list[int]) -> Child:
    scores = reading.listed(reading.part(rule, "scores"), arm)
    known = [
        scores[place] for place in chosen if place < len(scores) and isinstance(scores[place], int | float)
    ]
    if not known:
        return "not run"
    rate = sum(known) / len(known)
    counts = element("span", f"{sum(known):g} of {len(known)}", class_="ft-muted ft-nobreak")
    return join([svg.meter(rate), f" {percent(rate)} ", counts])


def confusion(experiment: Json) -> Html | None:
    """For each rule that judges labels: what each arm said to each expected label; None where no rule does."""
    grids: list[Html] = []
    for name in reading.rules(experiment):
        known = reading.part(experiment, "rules", name, "confusion")
        arms = [arm for arm in reading.arms(experiment) if reading.part(known, arm)]
        many = len(arms) > MOST_METERS
        first = [arm for arm in arms if arm in ("baseline", "tuned")] if many else arms
        rest = [arm for arm in arms if arm not in first]
        grids += [_grids(name, known, first)] if first else []
        if rest:
            title = f"{name}: {', '.join(map(arm_word, rest))}"
            grids.append(
                element("details", element("summary", title), _grids(name, known, rest), class_="ft-more")
            )
    if not grids:
        return None
    note = "Rows: the expected label. Columns: what was answered. The outlined cell is right; darker is more."
    return join([*grids, element("p", note, class_="ft-muted ft-apart")])


def _grids(rule: str, known: Json, arms: Sequence[str]) -> Html:
    return element("div", *(_grid(rule, arm, reading.part(known, arm)) for arm in arms), class_="ft-pair")


def _grid(rule: str, arm: str, counts: Json) -> Html:
    expected = sorted(counts)[:MOST_LABELS]
    given = {label for one in expected for label in reading.part(counts, one)}
    columns = [*expected, *sorted(given - set(expected) - {""})][:MOST_LABELS]
    columns += [""] * ("" in given)
    rows: list[list[Child]] = [
        [one or NO_LABEL, *_cells(reading.part(counts, one), columns, one)] for one in expected
    ]
    head = ["expected", *(label or NO_LABEL for label in columns)]
    return table(head, rows, f"{rule}, answered by {arm_word(arm)}", "ft-confusion")


def _cells(answered: Json, columns: Sequence[str], right: str) -> list[Child]:
    counts = {label: reading.whole(answered, label) or 0 for label in (*answered, *columns)}
    total = sum(counts[label] for label in answered) or 1
    return [_cell(counts[label], total, label == right) for label in columns]


def _cell(count: int, total: int, right: bool) -> Html:
    """A count whose darkness is its share of the expected label, in five steps."""
    step = min(round(5 * count / total), 5)
    return element("span", f"{count:,}", class_=f"ft-share-{step}{' ft-right' if right else ''}")
