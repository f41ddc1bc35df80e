"""Paired gains: of the tuned arm over every other one, then of the other arms over each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.outcomes import ArmPair, Comparison, RuleFacts
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Child, Html, element, folded, grid, join, paragraph, table
from pytest_finetune.record.views.page.sections.evidence import badge, with_span
from pytest_finetune.wording import arm_word, counted, gain_span, p_words, points


class Drawn(NamedTuple):
    """A comparison, the gain that it was held against, and whether a keep needs one."""

    pair: Comparison
    limit: float | None
    asked: bool
    sentence: str


def gains(experiment: RecordedExperiment) -> Html:
    """The paired gain of the tuned arm over every other one, against the gain that was asked for."""
    pairs = experiment.over_other_models
    if not pairs:
        return paragraph("missing", "The tuned model was not compared with another arm in this run.")
    drawn = [_drawn(experiment, pair) for pair in pairs]
    values = [(one.limit, *(one.pair.interval or ()), one.pair.gain) for one in drawn]
    axis = svg.gain_axis([value for found in values for value in found if value is not None])
    names = list(dict.fromkeys(one.pair.rule or "unnamed rule" for one in drawn))
    first = [name for name in names if _is_in_question(experiment.rules[name])] or names
    rest = [name for name in names if name not in first]
    note = "A dashed line: the gain to reach, or the loss to exclude. p is one-sided."
    title = f"On {counted(len(rest), 'further rule')}, of which no gain was asked: {', '.join(rest)}"
    further = _table(rest, drawn, axis, "Gains of the tuned model by further rules")
    return join(
        [
            _table(first, drawn, axis, "Gains of the tuned model by rule"),
            paragraph("muted", note),
            folded(title, further, class_="ft-more") if rest else None,
        ]
    )


def _drawn(experiment: RecordedExperiment, pair: Comparison) -> Drawn:
    rule = experiment.rules[pair.rule]
    asked = experiment.is_opponent(pair.against) and (rule.primary or rule.min_gain is not None)
    above = (*experiment.decision.reasons, *rule.reasons)
    # Not where the numbers say the same, or the verdict or the rule has said it above.
    told = pair.sentence not in above and (asked or rule.outcome != "passed")
    return Drawn(pair, _limit(experiment, rule, pair.against), asked, pair.sentence if told else "")


def _is_in_question(rule: RuleFacts) -> bool:
    """Tell whether something depends on a rule's gain: asked for, limited from below, or the rule did not pass."""
    asked = rule.min_gain is not None or rule.max_loss is not None
    return rule.primary or asked or rule.outcome != "passed"


def _table(names: Sequence[str], drawn: Sequence[Drawn], axis: svg.Axis, caption: str) -> Html:
    scale = join([svg.scale(axis, ""), element("span", "gain in points", class_="ft-quiet")])
    body = []
    for name in names:
        title = element("th", element("span", name, class_="ft-name"), scope="rowgroup", colspan="4")
        rows = [row for one in drawn if (one.pair.rule or "unnamed rule") == name for row in _rows(one, axis)]
        body.append(element("tbody", element("tr", title, class_="ft-rule"), *rows))
    return grid(["tuned over", scale, "gain and interval", "finding"], body, caption, "ft-gains")


def _limit(experiment: RecordedExperiment, rule: RuleFacts, against: str) -> float | None:
    """Find the gain that a comparison was held against; a permitted loss is a negative gain."""
    defaults, gain = experiment.config.decision, rule.min_gain
    if against == "baseline":
        if gain is None and rule.primary:
            gain = defaults.min_gain
        return gain if gain is not None else None if rule.max_loss is None else -rule.max_loss
    plan = experiment.planned_arms[against]
    if not rule.primary or (plan and not plan.opponent):
        return None
    asked = (plan.min_gain, defaults.prompt_gain, gain, defaults.min_gain)
    return next((value for value in asked if value is not None), None)


def _rows(drawn: Drawn, axis: svg.Axis) -> list[Html]:
    pair = drawn.pair
    same = f", {pair.same} same" if pair.same is not None else ""
    rows = f"{len(pair.fixed)} fixed, {len(pair.broken)} broken{same}"
    found = badge(pair.verdict or "not recorded", calm=not drawn.asked)
    weight = element("span", pair.weight, class_="ft-muted ft-nobreak")
    gain = with_span(points(pair.gain), gain_span(pair.interval))
    numbers = element(
        "tr",
        element("th", arm_word(pair.against or "an unknown arm"), scope="row"),
        element("td", svg.whisker(axis, "tuned", pair.gain, pair.interval, drawn.limit), class_="ft-cell"),
        element("td", gain, element("span", rows, class_="ft-note")),
        element("td", found, " ", weight),
    )
    sentence = element("td", drawn.sentence, colspan="4", class_="ft-note")
    return [numbers, *([element("tr", sentence, class_="ft-sentence")] if drawn.sentence else [])]


def pairs(experiment: RecordedExperiment) -> Html | None:
    """Each pair of other arms, the primary rule first and the others folded; None where no two arms are left."""
    names = list(dict.fromkeys(pair.rule or "unnamed rule" for pair in experiment.pairs))
    if not names:
        return None
    grids = [_pairs_table(name, [pair for pair in experiment.pairs if pair.rule == name]) for name in names]
    title = f"Under {counted(len(grids) - 1, 'further rule')}: {', '.join(names[1:])}"
    note = "Nothing is decided on these. better: rows that pass with the first arm and not with the second."
    rest = folded(title, *grids[1:], class_="ft-more") if grids[1:] else None
    return join([grids[0], paragraph("muted", note), rest])


def _pairs_table(name: str, found: Sequence[ArmPair]) -> Html:
    rows: list[list[Child]] = [
        [
            f"{arm_word(pair.arm or 'an arm')} over {arm_word(pair.against or 'an arm')}",
            with_span(points(pair.gain), gain_span(pair.interval)),
            "–" if pair.fixed is None else f"{pair.fixed} / {pair.broken}",
            p_words(pair.p_value),
        ]
        for pair in found
    ]
    head = ["pair", "gain and interval", "better / worse", "one-sided p"]
    return table(head, rows, f"{name}: other pairs of arms", "ft-compact")
