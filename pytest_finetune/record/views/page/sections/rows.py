"""Every held-out row with the answers of all arms, grouped by what the tuning changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from pytest_finetune.record.differences import marked
from pytest_finetune.record.lenient import Facts, Json
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import HeldOutRow, RuleFacts
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Child, Html, element, facts, folded, join, paragraph
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


class Said(Facts):
    """An arm's answer to a row."""

    id: str
    line: int | None
    prompt: str
    response: str
    thinking: str
    stopped: bool | None


class Numbered(NamedTuple):
    """A held-out row with its place on the page."""

    anchor: str
    row: HeldOutRow


class Sheet(NamedTuple):
    """What the rows of one experiment are looked up in."""

    main: str
    arms: tuple[str, ...]
    rules: Sequence[RuleFacts]
    scores: Mapping[tuple[str, str, str], float | None]  # (rule, arm, row id)
    answers: Mapping[tuple[str, str, int | None], Said]  # (arm, row id, line)
    prompts: Mapping[str, list[str]]  # the arms that were asked the first row so


def rows(experiment: RecordedExperiment, answers: Answers, anchor: str) -> Html:
    """Show the held-out rows, those that the tuning broke first and open; a script may narrow them."""
    if not experiment.held_out:
        return paragraph("missing", "No held-out row was answered in this run.")
    sheet = _sheet(experiment, answers)
    grouped: dict[str, list[Numbered]] = {key: [] for key, _, _ in GROUPS}
    for number, row in enumerate(experiment.held_out, start=1):
        grouped[_group(sheet, row.id)].append(Numbered(f"{anchor}-row-{number}", row))
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
    parts = [_balance(grouped, sheet.main), _prompts(sheet), _filter(grouped, anchor), *sections]
    return element("div", *parts, class_="ft-rows")


def _filter(grouped: Mapping[str, Sequence[Numbered]], anchor: str) -> Html:
    """The fields that narrow the rows: hidden until the page's script shows them."""
    tags = sorted({tag for found in grouped.values() for numbered in found for tag in numbered.row.tags})
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


def _sheet(experiment: RecordedExperiment, answers: Answers) -> Sheet:
    rules = list(experiment.rules.values())
    scores = {
        (rule.name, arm, row): score
        for rule in rules
        for arm, values in rule.scores.items()
        for row, score in zip(rule.rows, values, strict=False)
    }
    given = {arm: [Said.of(answer) for answer in found] for arm, found in answers.items() if found}
    arms = [arm for arm in experiment.arms if arm in given]
    arms += sorted(given.keys() - set(arms))
    by_row = {(arm, said.id, said.line): said for arm in arms for said in given[arm]}
    prompts: dict[str, list[str]] = {}
    for arm in arms:
        prompts.setdefault(given[arm][0].prompt, []).append(arm)
    return Sheet(experiment.primary.name, tuple(arms), rules, scores, by_row, prompts)


def _group(sheet: Sheet, row: str) -> str:
    before, after = (sheet.scores.get((sheet.main, arm, row)) for arm in ("baseline", "tuned"))
    if before is None or after is None:
        return "unjudged"
    if after != before:
        return "fixed" if after > before else "broken"
    return "both right" if after > 0 else "both wrong"


def _balance(grouped: Mapping[str, Sequence[Numbered]], main: str) -> Html | None:
    """One bar of what the tuning changed on the primary rule, and the same in words."""
    titles = {key: title for key, title, _ in GROUPS}
    counts = [
        (titles[key], f"ft-share-{key.replace(' ', '-')}", float(len(grouped[key])))
        for key in ("both right", "fixed", "broken", "both wrong")
    ]
    if not main or not any(count for *_, count in counts):
        return None
    words = [
        join([element("span", "", class_=f"ft-dot {kind}", aria_hidden="true"), f" {name.lower()} {count:g}"])
        for name, kind, count in counts
    ]
    about = f"{main}, tuned against base"
    return join([paragraph("legend", about, ": ", join(words, ", ")), svg.shares(counts)])


def _prompts(sheet: Sheet) -> Html | None:
    """The prompt of the first row, as each arm was asked; arms that were asked alike share it."""
    shown = [
        element(
            "div",
            element("h4", join([join([svg.marker(arm), f" {arm_word(arm)}"]) for arm in arms], ", ")),
            element("pre", _cut(prompt, arms[0])),
        )
        for prompt, arms in sheet.prompts.items()
        if prompt
    ]
    title = "What each arm was asked, on the first row"
    return folded(title, element("div", *shown, class_="ft-answers"), class_="ft-prompts") if shown else None


def _row(numbered: Numbered, sheet: Sheet) -> Html:
    """One row: where it stands, its input, the expected answer, and what every arm said."""
    row = numbered.row
    head = element(
        "h4",
        f"{row.file or 'unknown file'}:{'?' if row.line is None else row.line}",
        " ",
        element("code", row.id),
        *(join([" ", element("span", tag, class_="ft-tag")]) for tag in row.tags),
        element("span", f" group {row.group}", class_="ft-muted") if row.group else None,
    )
    texts = facts(
        [
            ("input", element("pre", _cut(row.input, "the file"))),
            ("expected", element("pre", _cut(row.expected, "the file"))),
        ],
        "ft-row-text",
    )
    said = element("div", *(_answer(arm, row, sheet) for arm in sheet.arms), class_="ft-answers")
    missing = None if sheet.arms else paragraph("missing", "The answers to this row were not stored.")
    return element("article", head, texts, said, missing, class_="ft-row", id=numbered.anchor, tabindex="-1")


def _answer(arm: str, row: HeldOutRow, sheet: Sheet) -> Html:
    judged = [(rule, sheet.scores.get((rule.name, arm, row.id))) for rule in sheet.rules]
    wrong = [rule for rule, score in judged if score is not None and score < 1]
    right = sum(score is not None and score >= 1 for _, score in judged)
    head = element("h5", svg.marker(arm), " ", arm_word(arm), " ", _outcome(right, len(wrong)))
    answer = sheet.answers.get((arm, row.id, row.line))
    if not answer:
        return element("div", head, paragraph("missing", "not answered"))
    pieces: list[Child] = [
        element("mark", piece.text) if piece.differs else piece.text
        for piece in marked(_cut(answer.response, f"outputs of {arm}"), row.expected)
    ]
    empty = paragraph("missing", "(an empty answer)")
    shown = element("pre", *pieces) if answer.response.strip() else empty
    cut = (
        "cut while thinking" if answer.thinking and not answer.response.strip() else "ran to the token limit"
    )
    notes = [paragraph("warn-text", cut)] if answer.stopped is False else []
    notes += [_message(rule, arm, row.id) for rule in wrong]
    return element("div", head, shown, *notes)


def _outcome(right: int, wrong: int) -> Html | None:
    if not right and not wrong:
        return None
    if not wrong:
        return element(
            "span", "✓ " + ("holds" if right == 1 else f"all {right} rules hold"), class_="ft-good-text"
        )
    return element("span", f"✕ fails {wrong} of {counted(right + wrong, 'rule')}", class_="ft-bad-text")


def _message(rule: RuleFacts, arm: str, row: str) -> Html:
    said = rule.messages.get(arm, {}).get(row, "")
    cut = said if len(said) <= MOST_MESSAGE else f"{said[:MOST_MESSAGE]}…"
    return paragraph("message", element("strong", rule.name), ": " if cut else " fails", cut)


def _cut(text: str, rest: str) -> str:
    """Cut a long text; the whole one is in the record or its outputs."""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}… ({len(text):,} characters, see {rest})"
