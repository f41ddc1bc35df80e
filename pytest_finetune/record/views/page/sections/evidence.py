"""What the rules found: rates of every arm, the power behind them, the prompts that were tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pytest_finetune.answering.arm_plans import TRIVIAL
from pytest_finetune.record import remarks
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import Candidate, RuleFacts
from pytest_finetune.record.tables import Rate, passed_of
from pytest_finetune.record.tables import rates as rate_rows
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import (
    Child,
    Html,
    element,
    facts,
    folded,
    grid,
    join,
    paragraph,
    sentence_of,
    table,
)
from pytest_finetune.wording import (
    arm_word,
    counted,
    figure,
    margin,
    percent,
    rate_span,
    threshold,
)

OUTCOMES: Final = {
    "passed": ("✓", "good"), "failed": ("✕", "bad"), "error": ("✕", "bad"), "undecided": ("?", "warn"),
    "beats": ("✓", "good"), "worse": ("✕", "bad"), "excluded": ("✕", "bad"),
    "not demonstrated": ("?", "warn"),
}  # fmt: skip
MOST_ROWS: Final = 200


def badge(word: str, *, calm: bool = False) -> Html:
    """Show an outcome as a symbol, a word and a colour; a calm one that is open has no colour."""
    symbol, tone = OUTCOMES.get(word, ("–", "none"))
    if calm and tone == "warn":
        symbol, tone = "–", "none"
    return _badge(symbol, word, tone)


def _badge(symbol: str, word: str, tone: str) -> Html:
    return element(
        "span", element("span", symbol, aria_hidden="true"), f" {word}", class_=f"ft-badge ft-{tone}"
    )


WORN: Final = _badge("!", "changed after a look", "warn")
"""The rule was written with these rows' answers in view."""


def with_span(value: str, span: str) -> Html:
    """Show a number with its interval beside it."""
    return join([element("strong", value), " ", element("span", span, class_="ft-muted ft-nobreak")])


def rates(experiment: RecordedExperiment) -> Html:
    """Arms side by side, rule by rule, each rate with its interval and the threshold that it must reach."""
    if not experiment.rules or not experiment.arms:
        return paragraph("missing", "No arm was judged by a rule in this run.")
    axis = join([svg.scale(svg.RATES, "%"), element("span", "rate", class_="ft-quiet")])
    bodies = (
        element("tbody", _rule_head(experiment, rule), *_arm_rows(rule, found))
        for rule, found in rate_rows(experiment)
    )
    shown = grid(["arm", axis, "rate and interval", "passed"], bodies, "Rates of the arms by rule")
    chance = remarks.chance(experiment)
    told = f" The line called chance needs no model: it {chance}." if chance else ""
    arms = (*remarks.thinking(experiment), *remarks.of_models(experiment))
    said = [paragraph("muted", sentence_of(text)) for text in arms]
    return join([shown, paragraph("muted", _level(experiment) + told), *said])


def _rule_head(experiment: RecordedExperiment, rule: RuleFacts) -> Html:
    kind = "primary" if rule.primary else "guard" if rule.guard else None
    notes = [reason for reason in rule.reasons if reason not in experiment.decision.reasons]
    if rule.skipped:
        notes.append(f"{counted(len(rule.skipped), 'row')} skipped.")
    cell = element(
        "th",
        element("span", rule.name, class_="ft-name"),
        element("span", kind, class_="ft-kind") if kind else None,
        badge(rule.outcome or "not recorded"),
        WORN if rule.changed_after_look else None,
        element("span", _wanted(rule), class_="ft-muted ft-wanted"),
        *(element("span", note, class_="ft-note") for note in notes),
        scope="rowgroup",
        colspan="4",
    )
    return element("tr", cell, class_="ft-rule")


def _wanted(rule: RuleFacts) -> str:
    """Word the thresholds of a rule."""
    if not rule:
        return "its thresholds were not recorded"
    said = []
    if rule.min_rate is not None:
        said.append(f"tuned at least {threshold(rule.min_rate)}")
    if rule.min_rate_bound is not None:
        said.append(f"tuned demonstrably at least {threshold(rule.min_rate_bound)}")
    if rule.min_gain is not None:
        said.append(f"a demonstrated gain over the base, observed at least {margin(rule.min_gain)}")
    if rule.max_loss is not None:
        said.append(f"a loss of more than {margin(rule.max_loss)} excluded")
    suite = f" (suite {rule.suite})" if rule.suite else ""
    return ("; ".join(said) or _without_threshold(rule)) + suite


def _without_threshold(rule: RuleFacts) -> str:
    if rule.primary:
        return "a demonstrated gain over the base"
    return "not demonstrably worse than the base" if rule.guard else "it holds on all answers together"


def _arm_rows(rule: RuleFacts, found: Sequence[Rate]) -> list[Html]:
    """Lay out the arms; through those of the primary rule goes the rate of the opponent that needs no model."""
    blind = next((one for one in found if rule.primary and one.arm in TRIVIAL), None)
    at = blind.score.rate if blind else None
    words = ["chance" if blind else "", *([""] * len(found))]
    lines = [None if at is None else (at, word) for word in words]
    return [_arm_row(rule, rate, line) for rate, line in zip(found, lines, strict=False)]


def _arm_row(rule: RuleFacts, rate: Rate, chance: tuple[float, str] | None) -> Html:
    limit = rule.min_rate_bound if rule.min_rate is None else rule.min_rate
    score, arm = rate.score, rate.arm
    asked = limit if arm == "tuned" else None
    plot = svg.whisker(svg.RATES, arm, score.rate, score.interval, asked, chance=chance)
    return element(
        "tr",
        element("th", svg.marker(arm), " ", arm_word(arm), scope="row"),
        element("td", plot, class_="ft-cell"),
        element("td", with_span(percent(score.rate) if score else "not run", rate.span)),
        element("td", rate.counts if score else "–", class_="ft-muted"),
    )


def _level(experiment: RecordedExperiment) -> str:
    confidences = {experiment.confidence(rule) for rule in experiment.rules.values() if rule}
    known = sorted(value for value in confidences if value is not None)
    level = f" Intervals at {' and '.join(map(threshold, known))}." if known else ""
    return f"A dashed line is the rate that the tuned model must reach.{level}"


def formats(experiment: RecordedExperiment) -> Html | None:
    """Show how many answers can be read and the rate among those; None where nothing was told, or all can be."""
    found = {name: arm.format for name, arm in experiment.arms.items() if arm.format}
    if all(one.whole for one in found.values()):
        return None
    rows: list[list[Child]] = [
        [
            arm_word(name),
            with_span(passed_of(one.readable, one.total), rate_span(one.interval)),
            with_span(percent(one.primary.rate), rate_span(one.primary.interval)) if one.primary else "–",
            passed_of(one.primary.passed, one.primary.total) if one.primary else "–",
        ]
        for name, one in found.items()
    ]
    told = ", ".join(sorted({one.told_by for one in found.values() if one.told_by}))
    note = (
        f"The format is told by the {told or 'record'}. Who does not speak it is beaten by the format alone."
    )
    head = ["arm", "answers in the format", "primary rule among those", "passed"]
    return join([table(head, rows, "Answers in the task's format"), paragraph("muted", note)])


def power(experiment: RecordedExperiment) -> Html:
    """How much these rows can show, how often they were looked at, and what remains at risk."""
    decision = experiment.decision
    if not decision:
        return paragraph("missing", "Nothing was decided in this run.")
    needed, alpha, looks = decision.examples_needed, decision.alpha, decision.looks
    worn = ", ".join(rule.name for rule in experiment.rules.values() if rule.changed_after_look)
    digest = decision.rules_sha256
    in_all = ", those that are here included" if decision.growth else ""
    known = facts(
        [
            ("power, as planned before the answers", experiment.power.line),
            ("power, from the rows that differed", decision.plan_line),
            ("looks at these rows", f"this is look {looks}" if looks is not None else None),
            ("rows added", decision.growth.words),
            ("claims are judged at", f"{figure(alpha)}, one-sided" if alpha is not None else None),
            (
                "rows that would settle it",
                f"about {counted(needed, 'row' if decision.growth else 'fresh row')}{in_all}"
                if needed is not None
                else None,
            ),
            ("rules changed after a look", worn),
            ("rules, sha256", element("code", digest) if digest else None),
        ]
    )
    risks = [element("li", risk.words) for risk in decision.weighed]
    return join([known, *([element("h4", "Remaining risks"), element("ul", *risks)] if risks else [])])


def prompts(experiment: RecordedExperiment) -> Html | None:
    """Every hand-written prompt with its score, the one that competed marked; None where none was written."""
    found = experiment.prompt_candidates
    if not found.tried:
        return None
    competed = element(
        "span", element("span", "✓", aria_hidden="true"), " competed", class_="ft-badge ft-good"
    )
    rows: list[list[Child]] = [
        [
            element("span", str(place), " ", competed if place - 1 == found.best else None),
            element("pre", one.template or "(empty)"),
            _tried(one),
        ]
        for place, one in enumerate(found.tried, start=1)
    ]
    said = (
        f"Tried on {counted(len(found.rows), 'training row')} by {found.rule or 'the primary rule'}; held-out rows "
        "chose none. The first of equals competes as the arm best prompt."
    )
    shown = table(["candidate", "prompt", "passed"], rows, "Candidates on training rows", "ft-prompt")
    return join([shown, paragraph("muted", said), _sample(found.rows)])


def _tried(one: Candidate) -> Html:
    counts = element("span", passed_of(one.passed, one.total), class_="ft-muted ft-nobreak")
    return join([svg.meter(one.rate) if one.rate is not None else None, f" {percent(one.rate)} ", counts])


def _sample(rows: Sequence[str]) -> Html | None:
    more = f" and {len(rows) - MOST_ROWS} more" if len(rows) > MOST_ROWS else ""
    listed = paragraph("muted", ", ".join(rows[:MOST_ROWS]), more)
    return folded("The training rows that they were tried on", listed) if rows else None
