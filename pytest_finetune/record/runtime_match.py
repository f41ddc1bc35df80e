"""From an experiment's facts and its answers: how the tuned arm agrees between the runtimes that were asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pytest_finetune.answering.arm_plans import TUNED
from pytest_finetune.judging.runtime_match import (
    ALIKE,
    RuntimeMatch,
    agreement,
    cause_of,
    end_of,
    grammar_of,
    moved,
)
from pytest_finetune.record.case import scores_of
from pytest_finetune.yamlfile import Json

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.judging.runtime_match import RuntimeMatch


def runtime_matches(
    tree: Json, answers_of: Callable[[str], Mapping[str, Answer]]
) -> tuple[RuntimeMatch, ...]:
    """Return one match for each further runtime in which the tuned arm has answered."""
    planned = tree.get("planned_arms", {})
    further = [name for name in planned if name.startswith(f"{TUNED}@") and name in tree.get("arms", {})]
    ours = answers_of(TUNED) if further and TUNED in tree["arms"] else {}
    if not ours:
        return ()
    return tuple(_match(tree, name, ours, answers_of(name)) for name in further)


def _match(tree: Json, name: str, ours: Mapping[str, Answer], theirs: Mapping[str, Answer]) -> RuntimeMatch:
    first, second = (tree["planned_arms"][arm]["runtime"] for arm in (TUNED, name))
    rows = [row for row in ours if row in theirs]
    text = agreement(
        first,
        second,
        rows,
        [ours[row].response for row in rows],
        [theirs[row].response for row in rows],
    )
    rules, paired = {}, {}
    for rule in tree.get("rules", {}):
        scores = scores_of(tree, rule)
        if TUNED in scores.arms and name in scores.arms:
            before, after = scores.arms[TUNED], scores.arms[name]
            rules[rule] = agreement(first, second, scores.rows, before, after)
            if found := moved(scores.rows, before, after, scores.groups):
                paired[rule] = found
    cause = None
    if text.rate < ALIKE:
        arms = [tree["arms"][arm] for arm in (TUNED, name)]
        said = [[answers[row].response for row in rows] for answers in (ours, theirs)]
        cause = (
            cause_of(second, arms[1]) or grammar_of(first, second, arms) or end_of(first, second, arms, said)
        )
    return RuntimeMatch(first, second, text, rules, cause, paired)
