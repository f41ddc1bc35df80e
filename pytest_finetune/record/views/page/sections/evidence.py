"""What the rules found: rates of every arm, gains of the tuned one, power, slices, runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pytest_finetune.judging.rule import is_guard
from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Html, element, join
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


def badge(word: str, *, calm: bool = False) -> Html:
    """Show an outcome as a symbol, a word and a colour; a calm one that is open has no colour."""
    symbol, tone = OUTCOMES.get(word, ("–", "none"))
    if calm and tone == "warn":
        symbol, tone = "–", "none"
    return element(
        "span", element("span", symbol, aria_hidden="true"), f" {word}", class_=f"ft-badge ft-{tone}"
    )


WORN: Final = element(
    "span", element("span", "!", aria_hidden="true"), " changed after a look", class_="ft-badge ft-warn"
)  # the rule was written with these rows' answers in view


def rates(experiment: Json) -> Html:
    """Arms side by side, rule by rule, each rate with its interval and the threshold that it must reach."""
    names, arms = reading.rules(experiment), reading.arms(experiment)
    if not names or not arms:
        return element("p", "No arm was judged by a rule in this run.", class_="ft-missing")
    head = [
        element("th", "arm", scope="col"),
        element("th", svg.scale(svg.RATES, "%"), element("span", "rate", class_="ft-quiet"), scope="col"),
        element("th", "rate and interval", scope="col"),
        element("th", "passed", scope="col"),
    ]
    body = [
        element("tbody", _rule_head(experiment, name), *_arm_rows(experiment, name, arms)) for name in names
    ]
    grid = element(
        "table",
        element("caption", "Rates of the arms by rule"),
        element("thead", element("tr", *head)),
        *body,
        class_="ft-grid-table",
    )
    return join([grid, element("p", _level(experiment), class_="ft-muted")])


def _rule_head(experiment: Json, name: str) -> Html:
    rule = reading.part(experiment, "rules", name)
    kind = "primary" if rule.get("primary") else "guard" if rule and is_guard(rule) else None
    above = reading.listed(reading.part(experiment, "decision"), "reasons")
    notes = [str(reason) for reason in reading.listed(rule, "reasons") if reason not in above]
    if skipped := reading.listed(rule, "skipped"):
        notes.append(f"{counted(len(skipped), 'row')} skipped.")
    cell = element(
        "th",
        element("span", name, class_="ft-name"),
        element("span", kind, class_="ft-kind") if kind else None,
        badge(reading.text(rule, "outcome", "not recorded")),
        WORN if rule.get("changed_after_look") else None,
        element("span", _wanted(rule), class_="ft-muted ft-wanted"),
        *(element("span", note, class_="ft-note") for note in notes),
        scope="rowgroup",
        colspan="4",
    )
    return element("tr", cell, class_="ft-rule")


def _wanted(rule: Json) -> str:
    """Word the thresholds of a rule."""
    if not rule:
        return "its thresholds were not recorded"
    said = []
    if (rate := reading.number(rule, "min_rate")) is not None:
        said.append(f"tuned at least {threshold(rate)}")
    if (rate := reading.number(rule, "min_rate_bound")) is not None:
        said.append(f"tuned demonstrably at least {threshold(rate)}")
    if (gain := reading.number(rule, "min_gain")) is not None:
        said.append(f"a demonstrated gain over the base, observed at least {margin(gain)}")
    if (loss := reading.number(rule, "max_loss")) is not None:
        said.append(f"a loss of more than {margin(loss)} excluded")
    suite = f" (suite {rule['suite']})" if rule.get("suite") else ""
    return ("; ".join(said) or _without_threshold(rule)) + suite


def _without_threshold(rule: Json) -> str:
    if rule.get("primary"):
        return "a demonstrated gain over the base"
    return "not demonstrably worse than the base" if is_guard(rule) else "it holds on all answers together"


def _arm_rows(experiment: Json, name: str, arms: Sequence[str]) -> list[Html]:
    rule = reading.part(experiment, "rules", name)
    rows = []
    for arm in arms:
        score = reading.part(experiment, "arms", arm, "rules", name)
        rate, span = reading.number(score, "rate"), reading.span(score, "interval")
        limits = (
            [reading.number(rule, key) for key in ("min_rate", "min_rate_bound")] if arm == "tuned" else []
        )
        limit = next((value for value in limits if value is not None), None)
        counts = (
            f"{figure(reading.number(score, 'passed'), 6)} of {figure(reading.number(score, 'total'), 6)}"
        )
        rows.append(
            element(
                "tr",
                element("th", svg.marker(arm), " ", arm_word(arm), scope="row"),
                element("td", svg.whisker(svg.RATES, arm, rate, span, limit), class_="ft-cell"),
                element("td", with_span(percent(rate) if score else "not run", rate_span(span))),
                element("td", counts if score else "–", class_="ft-muted"),
            )
        )
    return rows


def with_span(value: str, span: str) -> Html:
    """Show a number with its interval beside it."""
    return join([element("strong", value), " ", element("span", span, class_="ft-muted ft-nobreak")])


def _level(experiment: Json) -> str:
    rules = reading.part(experiment, "rules")
    confidences = {reading.confidence(experiment, reading.part(rules, name)) for name in rules}
    known = sorted(value for value in confidences if value is not None)
    level = f" Intervals at {' and '.join(map(threshold, known))}." if known else ""
    return f"A dashed line is the rate that the tuned model must reach.{level}"
