"""What the rules found: rates of every arm, gains of the tuned one, power, slices, runtimes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pytest_finetune.record import reading, svg
from pytest_finetune.record.html import Child, Html, element, facts, join, table
from pytest_finetune.record.reading import Json
from pytest_finetune.record.wording import (
    arm_word,
    counted,
    figure,
    gain_span,
    margin,
    percent,
    points,
    rate_span,
    threshold,
)

OUTCOMES: Final = {
    "passed": ("✓", "good"), "failed": ("✕", "bad"), "error": ("✕", "bad"), "undecided": ("?", "warn"),
    "beats": ("✓", "good"), "worse": ("✕", "bad"), "excluded": ("✕", "bad"),
    "not demonstrated": ("?", "warn"),
}  # fmt: skip


def badge(word: str) -> Html:
    """Show an outcome as a symbol, a word and a colour."""
    symbol, tone = OUTCOMES.get(word, ("–", "none"))
    return element(
        "span", element("span", symbol, aria_hidden="true"), f" {word}", class_=f"ft-badge ft-{tone}"
    )


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
    kind = "primary" if rule.get("primary") else "guard" if reading.is_guard(rule) else None
    above = reading.listed(reading.part(experiment, "decision"), "reasons")
    notes = [str(reason) for reason in reading.listed(rule, "reasons") if reason not in above]
    if rule.get("changed_after_look"):
        notes.append("The text of this rule changed after a look at these rows.")
    if skipped := reading.listed(rule, "skipped"):
        notes.append(f"{counted(len(skipped), 'row')} skipped.")
    cell = element(
        "th",
        element("span", name, class_="ft-name"),
        element("span", kind, class_="ft-kind") if kind else None,
        badge(reading.text(rule, "outcome", "not recorded")),
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
    return ("; ".join(said) or "not demonstrably worse than the base") + suite


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
                element("td", _number(percent(rate) if score else "not run", rate_span(span))),
                element("td", counts if score else "–", class_="ft-muted"),
            )
        )
    return rows


def _number(value: str, span: str) -> Html:
    return join([element("strong", value), " ", element("span", span, class_="ft-muted ft-nobreak")])


def _level(experiment: Json) -> str:
    rules = reading.part(experiment, "rules")
    confidences = {reading.confidence(experiment, reading.part(rules, name)) for name in rules}
    known = sorted(value for value in confidences if value is not None)
    level = f" Intervals at {' and '.join(map(threshold, known))}." if known else ""
    return f"A dashed line is the rate that the tuned model must reach.{level}"


def gains(experiment: Json) -> Html:
    """The paired gain of the tuned arm over every other one, against the gain that was asked for."""
    pairs = reading.comparisons(experiment)
    if not pairs:
        return element(
            "p", "The tuned model was not compared with another arm in this run.", class_="ft-missing"
        )
    limits = [_limit(experiment, pair) for pair in pairs]
    spans = [reading.span(pair, "interval") for pair in pairs]
    values = [
        value
        for limit, span, pair in zip(limits, spans, pairs, strict=True)
        for value in (limit, *(span or ()), reading.number(pair, "gain"))
        if value is not None
    ]
    axis = svg.gain_axis(values)
    head = [
        element("th", "tuned over", scope="col"),
        element("th", svg.scale(axis, ""), element("span", "gain in points", class_="ft-quiet"), scope="col"),
        element("th", "gain and interval", scope="col"),
        element("th", "finding", scope="col"),
    ]
    body = []
    for name in dict.fromkeys(reading.text(pair, "rule", "unnamed rule") for pair in pairs):
        rows = [
            row
            for pair, limit in zip(pairs, limits, strict=True)
            if reading.text(pair, "rule", "unnamed rule") == name
            for row in (_gain_row(pair, axis, limit), _sentence_row(experiment, pair))
        ]
        title = element("th", element("span", name, class_="ft-name"), scope="rowgroup", colspan="4")
        body.append(element("tbody", element("tr", title, class_="ft-rule"), *rows))
    caption = element("caption", "Gains of the tuned model by rule")
    grid = element(
        "table", caption, element("thead", element("tr", *head)), *body, class_="ft-grid-table ft-gains"
    )
    note = "A dashed line: the gain to reach, or the loss to exclude. p is one-sided."
    return join([grid, element("p", note, class_="ft-muted")])


def _limit(experiment: Json, pair: Json) -> float | None:
    """Find the gain that a comparison was held against; a permitted loss is a negative gain."""
    rule = reading.part(experiment, "rules", reading.text(pair, "rule"))
    defaults = reading.part(experiment, "config", "decision")
    gain, loss = reading.number(rule, "min_gain"), reading.number(rule, "max_loss")
    if pair.get("against") == "baseline":
        if gain is None and rule.get("primary"):
            gain = reading.number(defaults, "min_gain")
        return gain if gain is not None else None if loss is None else -loss
    if not rule.get("primary"):
        return None
    asked = (reading.number(defaults, "prompt_gain"), gain, reading.number(defaults, "min_gain"))
    return next((value for value in asked if value is not None), None)


def _gain_row(pair: Json, axis: svg.Axis, limit: float | None) -> Html:
    gain, span = reading.number(pair, "gain"), reading.span(pair, "interval")
    fixed, broken = len(reading.listed(pair, "fixed")), len(reading.listed(pair, "broken"))
    same = reading.whole(pair, "same")
    rows = f"{fixed} fixed, {broken} broken" + (f", {same} same" if same is not None else "")
    return element(
        "tr",
        element("th", arm_word(reading.text(pair, "against", "an unknown arm")), scope="row"),
        element("td", svg.whisker(axis, "tuned", gain, span, limit), class_="ft-cell"),
        element("td", _number(points(gain), gain_span(span)), element("span", rows, class_="ft-note")),
        element(
            "td",
            badge(reading.text(pair, "verdict", "not recorded")),
            " ",
            element("span", p_words(reading.number(pair, "p_value")), class_="ft-muted ft-nobreak"),
        ),
    )


def _sentence_row(experiment: Json, pair: Json) -> Html | None:
    """The sentence of a comparison, unless the verdict or the rule has said it above."""
    sentence, decision = reading.text(pair, "sentence"), reading.part(experiment, "decision")
    rule = reading.part(experiment, "rules", reading.text(pair, "rule"))
    if not sentence or sentence in (*reading.listed(decision, "reasons"), *reading.listed(rule, "reasons")):
        return None
    return element("tr", element("td", sentence, colspan="4", class_="ft-note"), class_="ft-sentence")


def p_words(p_value: float | None) -> str:
    """Word a p-value; below one in ten thousand its exact size says nothing more."""
    if p_value is None or not math.isfinite(p_value):
        return "no p-value"
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"


def power(experiment: Json) -> Html:
    """How much these rows can show, how often they were looked at, and what remains at risk."""
    decision = reading.part(experiment, "decision")
    if not decision:
        return element("p", "Nothing was decided in this run.", class_="ft-missing")
    needed, alpha = reading.whole(decision, "examples_needed"), reading.number(decision, "alpha")
    looks, digest = reading.whole(decision, "looks"), reading.text(decision, "rules_sha256")
    known = facts(
        [
            ("power", reading.text(decision, "plan_line") or None),
            ("looks at these rows", f"this is look {looks}" if looks is not None else None),
            ("claims are judged at", f"{figure(alpha)}, one-sided" if alpha is not None else None),
            (
                "rows that would settle it",
                f"about {counted(needed, 'fresh row')}" if needed is not None else None,
            ),
            ("rules, sha256", element("code", digest) if digest else None),
        ]
    )
    risks = [element("li", str(risk)) for risk in reading.listed(decision, "risks")]
    return join([known, *([element("h4", "Remaining risks"), element("ul", *risks)] if risks else [])])


def slices(experiment: Json) -> Html | None:
    """Rates of the primary rule by tag; None where no row has a tag."""
    main = reading.primary(experiment)
    if main is None:
        return None
    rule, arms = reading.part(experiment, "rules", main), reading.arms(experiment)
    tags = {
        reading.text(row, "id"): reading.listed(row, "tags") for row in reading.parts(experiment, "held_out")
    }
    ids = [str(row) for row in reading.listed(rule, "rows")]
    names = sorted({str(tag) for row in ids for tag in tags.get(row, [])})
    rows: list[list[Child]] = []
    for name in names:
        chosen = [place for place, row in enumerate(ids) if name in map(str, tags.get(row, []))]
        rows.append([name, str(len(chosen)), *(_slice(rule, arm, chosen) for arm in arms)])
    if not rows:
        return None
    head = ["tag", "rows", *map(arm_word, arms)]
    note = element(
        "p", "Slices are small: read them as hints, the decision does not use them.", class_="ft-muted"
    )
    return join([table(head, rows, f"{main} by tag"), note])


def _slice(rule: Json, arm: str, chosen: list[int]) -> str:
    scores = reading.listed(reading.part(rule, "scores"), arm)
    known = [
        scores[place] for place in chosen if place < len(scores) and isinstance(scores[place], int | float)
    ]
    return f"{percent(sum(known) / len(known))} ({sum(known):g} of {len(known)})" if known else "not run"


def runtimes(experiment: Json) -> Html | None:
    """How far the tuned arm agrees between runtimes; None where one runtime was used."""
    found = reading.parts(experiment, "runtime_match")
    keys = sorted({key for match in found for key in match})
    rows: list[list[Child]] = [[_value(match.get(key)) for key in keys] for match in found]
    return table(keys, rows, "Agreement of the tuned model between runtimes") if rows else None


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(value[key])}" for key in sorted(value))
    return figure(value) if isinstance(value, float) else "–" if value is None else str(value)
