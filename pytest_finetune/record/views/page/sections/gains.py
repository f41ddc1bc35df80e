"""The paired gains of the tuned arm over every other one."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_finetune.record import reading
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Html, element, join
from pytest_finetune.record.views.page.sections.evidence import badge, with_span
from pytest_finetune.wording import arm_word, counted, gain_span, p_words, points

Drawn = tuple[Json, float | None]  # a comparison and the gain that it was held against


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
    drawn = list(zip(pairs, limits, strict=True))
    names = list(dict.fromkeys(reading.text(pair, "rule", "unnamed rule") for pair in pairs))
    first = [name for name in names if _is_in_question(experiment, name)] or names
    rest = [name for name in names if name not in first]
    note = "A dashed line: the gain to reach, or the loss to exclude. p is one-sided."
    return join(
        [
            _table(experiment, first, drawn, axis, "Gains of the tuned model by rule"),
            element("p", note, class_="ft-muted"),
            _folded(experiment, rest, drawn, axis),
        ]
    )


def _is_in_question(experiment: Json, name: str) -> bool:
    """Tell whether something hangs on a rule's gain: asked for, limited from below, or the rule did not pass."""
    rule = reading.part(experiment, "rules", name)
    asked = any(rule.get(key) is not None for key in ("min_gain", "max_loss"))
    return bool(rule.get("primary")) or asked or rule.get("outcome") != "passed"


def _folded(experiment: Json, names: Sequence[str], drawn: Sequence[Drawn], axis: svg.Axis) -> Html | None:
    if not names:
        return None
    title = f"On {counted(len(names), 'further rule')}, of which no gain was asked: {', '.join(names)}"
    caption = "Gains of the tuned model by further rules"
    return element(
        "details",
        element("summary", title),
        _table(experiment, names, drawn, axis, caption),
        class_="ft-more",
    )


def _table(
    experiment: Json, names: Sequence[str], drawn: Sequence[Drawn], axis: svg.Axis, caption: str
) -> Html:
    head = [
        element("th", "tuned over", scope="col"),
        element("th", svg.scale(axis, ""), element("span", "gain in points", class_="ft-quiet"), scope="col"),
        element("th", "gain and interval", scope="col"),
        element("th", "finding", scope="col"),
    ]
    body = []
    for name in names:
        rows = [
            row
            for pair, limit in drawn
            if reading.text(pair, "rule", "unnamed rule") == name
            for row in (
                _gain_row(pair, axis, limit, asked=_asked(experiment, pair)),
                _sentence_row(experiment, pair),
            )
        ]
        title = element("th", element("span", name, class_="ft-name"), scope="rowgroup", colspan="4")
        body.append(element("tbody", element("tr", title, class_="ft-rule"), *rows))
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *head)),
        *body,
        class_="ft-grid-table ft-gains",
    )


def _limit(experiment: Json, pair: Json) -> float | None:
    """Find the gain that a comparison was held against; a permitted loss is a negative gain."""
    rule = reading.part(experiment, "rules", reading.text(pair, "rule"))
    defaults = reading.part(experiment, "config", "decision")
    gain, loss = reading.number(rule, "min_gain"), reading.number(rule, "max_loss")
    if pair.get("against") == "baseline":
        if gain is None and rule.get("primary"):
            gain = reading.number(defaults, "min_gain")
        return gain if gain is not None else None if loss is None else -loss
    plan = reading.part(experiment, "planned_arms", reading.text(pair, "against"))
    if not rule.get("primary") or (plan and not plan.get("opponent")):
        return None
    own, over_prompt = reading.number(plan, "min_gain"), reading.number(defaults, "prompt_gain")
    asked = (own, over_prompt, gain, reading.number(defaults, "min_gain"))
    return next((value for value in asked if value is not None), None)


def _gain_row(pair: Json, axis: svg.Axis, limit: float | None, *, asked: bool) -> Html:
    gain, span = reading.number(pair, "gain"), reading.span(pair, "interval")
    fixed, broken = len(reading.listed(pair, "fixed")), len(reading.listed(pair, "broken"))
    same = reading.whole(pair, "same")
    rows = f"{fixed} fixed, {broken} broken" + (f", {same} same" if same is not None else "")
    return element(
        "tr",
        element("th", arm_word(reading.text(pair, "against", "an unknown arm")), scope="row"),
        element("td", svg.whisker(axis, "tuned", gain, span, limit), class_="ft-cell"),
        element("td", with_span(points(gain), gain_span(span)), element("span", rows, class_="ft-note")),
        element(
            "td",
            badge(reading.text(pair, "verdict", "not recorded"), calm=not asked),
            " ",
            element("span", p_words(reading.number(pair, "p_value")), class_="ft-muted ft-nobreak"),
        ),
    )


def _asked(experiment: Json, pair: Json) -> bool:
    """Tell whether a gain was asked for: over an opponent, of the primary rule or of one with a margin."""
    rule = reading.part(experiment, "rules", reading.text(pair, "rule"))
    opponent = reading.is_opponent(experiment, reading.text(pair, "against"))
    return opponent and (bool(rule.get("primary")) or rule.get("min_gain") is not None)


def _sentence_row(experiment: Json, pair: Json) -> Html | None:
    """The sentence of a comparison, unless its numbers say the same or the verdict or the rule has said it above."""
    sentence, decision = reading.text(pair, "sentence"), reading.part(experiment, "decision")
    rule = reading.part(experiment, "rules", reading.text(pair, "rule"))
    if not sentence or sentence in (*reading.listed(decision, "reasons"), *reading.listed(rule, "reasons")):
        return None
    if rule.get("outcome") == "passed" and not _asked(experiment, pair):
        return None
    return element("tr", element("td", sentence, colspan="4", class_="ft-note"), class_="ft-sentence")
