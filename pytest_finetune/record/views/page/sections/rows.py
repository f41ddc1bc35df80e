"""Every held-out row with the answers of all arms, grouped by what the tuning changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from pytest_finetune.record import reading
from pytest_finetune.record.differences import marked
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Child, Html, element, facts, join
from pytest_finetune.wording import arm_word, counted

MOST_TEXT: Final = 1500
MOST_MESSAGE: Final = 300

Answers = Mapping[str, Sequence[Json]]

GROUPS: Final = (
    ("broken", "Broken", "right before tuning, wrong after"),
    ("fixed", "Fixed", "wrong before tuning, right after"),
    ("both wrong", "Both wrong", "wrong before and after"),
    ("both right", "Both right", "right before and after"),
    ("unjudged", "Not judged by the primary rule", "skipped, of another suite, or the run ended before"),
)


class Numbered(NamedTuple):
    """A held-out row with its place on the page."""

    anchor: str
    row: Json


class Sheet(NamedTuple):
    """What the rows of one experiment are looked up in."""

    arms: tuple[str, ...]
    rules: tuple[str, ...]
    scores: Mapping[tuple[str, str, str], float | None]  # (rule, arm, row id)
    messages: Mapping[str, Json]
    answers: Mapping[tuple[str, str, int | None], Json]  # (arm, row id, line)


def rows(experiment: Json, answers: Answers, anchor: str) -> Html:
    """Show the held-out rows, those that the tuning broke first and open; a script may narrow them."""
    held_out = reading.parts(experiment, "held_out")
    if not held_out:
        return element("p", "No held-out row was answered in this run.", class_="ft-missing")
    sheet = _sheet(experiment, answers)
    grouped: dict[str, list[Numbered]] = {key: [] for key, _, _ in GROUPS}
    main = reading.primary(experiment)
    for number, row in enumerate(held_out, start=1):
        grouped[_group(sheet, main, reading.text(row, "id"))].append(Numbered(f"{anchor}-row-{number}", row))
    sections = [
        element(
            "details",
            element(
                "summary",
                element("strong", f"{title} ({len(grouped[key])})"),
                " ",
                element("span", why, class_="ft-muted"),
            ),
            *(_row(row, sheet) for row in grouped[key]),
            class_=f"ft-group ft-group-{key.replace(' ', '-')}",
            data_group=key,
            open=key == "broken" and len(grouped[key]) <= 12,
        )
        for key, title, why in GROUPS
        if grouped[key]
    ]
    parts = [_balance(grouped, main, sheet), _prompts(sheet, answers), _filter(grouped, anchor), *sections]
    return element("div", *parts, class_="ft-rows")


def _filter(grouped: Mapping[str, Sequence[Numbered]], anchor: str) -> Html:
    """The fields that narrow the rows: hidden until the page's script shows them."""
    tags = sorted(
        {str(tag) for rows in grouped.values() for row in rows for tag in reading.listed(row.row, "tags")}
    )
    kinds = [(key, f"{title} ({len(grouped[key])})") for key, title, _ in GROUPS if grouped[key]]
    fields = [
        _choice("rows", [("", "all"), *kinds], f"{anchor}-kind"),
        _choice("tag", [("", "any"), *((tag, tag) for tag in tags)], f"{anchor}-tag"),
        _field("text", element("input", type="search", id=f"{anchor}-words", size=18), f"{anchor}-words"),
        element("button", "show all", type="reset"),
        element("output", "", class_="ft-muted", aria_live="polite"),
    ]
    return element("form", *fields, class_="ft-filter", hidden=True, aria_label="Narrow the held-out rows")


def _choice(name: str, options: Sequence[tuple[str, str]], anchor: str) -> Html:
    chosen = [element("option", shown, value=value) for value, shown in options]
    return _field(name, element("select", *chosen, id=anchor), anchor)


def _field(name: str, field: Html, anchor: str) -> Html:
    return element("span", element("label", name, for_=anchor), field)


def _sheet(experiment: Json, answers: Answers) -> Sheet:
    names = reading.rules(experiment)
    known = reading.part(experiment, "rules")
    scores: dict[tuple[str, str, str], float | None] = {}
    for name in names:
        rule = reading.part(known, name)
        ids = [str(row) for row in reading.listed(rule, "rows")]
        for arm, values in reading.part(rule, "scores").items():
            for row, value in zip(ids, values if isinstance(values, list | tuple) else [], strict=False):
                scores[name, arm, row] = value if isinstance(value, int | float) else None
    given = {arm: found for arm, found in answers.items() if found}
    arms = [arm for arm in reading.arms(experiment) if arm in given]
    arms += sorted(given.keys() - set(arms))
    by_row = {
        (arm, str(answer.get("id")), reading.whole(answer, "line")): answer
        for arm in arms
        for answer in given[arm]
    }
    return Sheet(
        tuple(arms), tuple(names), scores, {n: reading.part(known, n, "messages") for n in names}, by_row
    )


def _group(sheet: Sheet, main: str | None, row: str) -> str:
    before = sheet.scores.get((main or "", "baseline", row))
    after = sheet.scores.get((main or "", "tuned", row))
    if before is None or after is None:
        return "unjudged"
    if after != before:
        return "fixed" if after > before else "broken"
    return "both right" if after > 0 else "both wrong"


def _balance(grouped: Mapping[str, Sequence[Numbered]], main: str | None, sheet: Sheet) -> Html | None:
    """One bar of what the tuning changed on the primary rule, and the same in words."""
    counts = [
        (title, f"ft-share-{key.replace(' ', '-')}", float(len(grouped[key]))) for key, title, _ in GROUPS
    ]
    counts = [counts[3], counts[1], counts[0], counts[2]]
    if main is None or not any(count for *_, count in counts):
        return None
    words = [
        join(
            [element("span", "", class_=f"ft-dot {class_}", aria_hidden="true"), f" {name.lower()} {count:g}"]
        )
        for name, class_, count in counts
    ]
    about = f"{main}, tuned against base"
    return join([element("p", about, ": ", join(words, ", "), class_="ft-legend"), svg.shares(counts)])


def _prompts(sheet: Sheet, answers: Answers) -> Html | None:
    """The prompt of the first row, as each arm was asked; arms that were asked alike share it."""
    asked: dict[str, list[str]] = {}
    for arm in sheet.arms:
        if answers[arm] and (prompt := reading.text(answers[arm][0], "prompt")):
            asked.setdefault(prompt, []).append(arm)
    shown = [
        element(
            "div",
            element("h4", join([join([svg.marker(arm), f" {arm_word(arm)}"]) for arm in arms], ", ")),
            element("pre", _cut(prompt, arms[0])),
        )
        for prompt, arms in asked.items()
    ]
    if not shown:
        return None
    title = element("summary", "What each arm was asked, on the first row")
    return element("details", title, element("div", *shown, class_="ft-answers"), class_="ft-prompts")


def _row(numbered: Numbered, sheet: Sheet) -> Html:
    """One row: where it stands, its input, the expected answer, and what every arm said."""
    row = numbered.row
    name, line = reading.text(row, "id"), reading.whole(row, "line")
    expected = reading.text(row, "expected")
    tags = [element("span", str(tag), class_="ft-tag") for tag in reading.listed(row, "tags")]
    place = f"{reading.text(row, 'file', 'unknown file')}:{reading.text(row, 'line', '?')}"
    group = reading.text(row, "group")
    head = element(
        "h4",
        place,
        " ",
        element("code", name),
        *(join([" ", tag]) for tag in tags),
        element("span", f" group {group}", class_="ft-muted") if group else None,
    )
    said = [_answer(arm, name, sheet, _find(sheet, arm, name, line), expected) for arm in sheet.arms]
    texts = facts(
        [
            ("input", element("pre", _cut(reading.text(row, "input"), "the file"))),
            ("expected", element("pre", _cut(expected, "the file"))),
        ],
        "ft-row-text",
    )
    missing = None if said else element("p", "The answers to this row were not stored.", class_="ft-missing")
    parts = (head, texts, element("div", *said, class_="ft-answers"), missing)
    return element("article", *parts, class_="ft-row", id=numbered.anchor, tabindex="-1")


def _find(sheet: Sheet, arm: str, row: str, line: int | None) -> Json:
    return sheet.answers.get((arm, row, line)) or {}


def _answer(arm: str, row: str, sheet: Sheet, answer: Json, expected: str) -> Html:
    judged = [(rule, sheet.scores.get((rule, arm, row))) for rule in sheet.rules]
    wrong = [rule for rule, score in judged if score is not None and score < 1]
    right = sum(score is not None and score >= 1 for _, score in judged)
    head = element("h5", svg.marker(arm), " ", arm_word(arm), " ", _outcome(right, len(wrong)))
    if not answer:
        return element("div", head, element("p", "not answered", class_="ft-missing"))
    response = reading.text(answer, "response")
    pieces: list[Child] = [
        element("mark", piece.text) if piece.differs else piece.text
        for piece in marked(_cut(response, f"outputs of {arm}"), expected)
    ]
    shown = (
        element("pre", *pieces)
        if response.strip()
        else element("p", "(an empty answer)", class_="ft-missing")
    )
    notes = (
        [] if answer.get("stopped", True) else [element("p", "ran to the token limit", class_="ft-warn-text")]
    )
    notes += [_message(rule, sheet.messages[rule], arm, row) for rule in wrong]
    return element("div", head, shown, *notes)


def _outcome(right: int, wrong: int) -> Html | None:
    if not right and not wrong:
        return None
    if not wrong:
        return element(
            "span", "✓ " + ("holds" if right == 1 else f"all {right} rules hold"), class_="ft-good-text"
        )
    return element("span", f"✕ fails {wrong} of {counted(right + wrong, 'rule')}", class_="ft-bad-text")


def _message(rule: str, messages: Json, arm: str, row: str) -> Html:
    said = reading.text(reading.part(messages, arm), row)
    cut = said if len(said) <= MOST_MESSAGE else f"{said[:MOST_MESSAGE]}…"
    return element("p", element("strong", rule), ": " if cut else " fails", cut, class_="ft-message")


def _cut(text: str, rest: str) -> str:
    """Cut a long text; the whole one is in the record or its outputs."""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}… ({len(text):,} characters, see {rest})"
