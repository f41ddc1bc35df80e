"""The arguments of `eval_rule`: what cannot be meant is refused with what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_finetune.suite.rules.rule_arguments import mistakes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_rat": 0.9}, "did you mean 'min_rate'"),
        ({"min_rate": 95}, "write a share between 0 and 1, as in min_rate=0.95"),
        ({"min_rate": True}, "write a share between 0 and 1"),
        ({"confidence": 0.4}, "write a share between 0.5 and 1, as in confidence=0.95"),
        ({"primary": "yes"}, "write True or False"),
        ({"suite": ""}, "write a name"),
        ({"slice": 3}, "write a name"),
        ({"cluster": "user"}, "rows are clustered by 'group' only"),
        ({"primary": True, "suite": "general"}, "the primary rule is judged on eval_file"),
        ({"protected": ["negative"]}, "say by what rows are sliced, as in slice='tags'"),
        ({"slice": "tags", "protected": "negative"}, "write a list of slices, as in protected=['negative']"),
        ({"slice": "tags", "protected": []}, "write a list of slices"),
        ({"corpus": True, "min_gain": 0.1}, "a corpus rule has one value for each arm and no rows to pair"),
        ({"invariant_to": ["typos"], "min_rate": 0.9}, "write a list of case, whitespace, typo, numbers"),
        ({"invariant_to": ["typo"]}, "say how many outcomes must stay, as in min_rate=0.9"),
        ({"invariant_to": ["typo"], "min_rate": 0.9, "primary": True}, "counts outcomes that stay"),
        ({"direction": "not lower"}, "say to what the rule is invariant"),
        ({"invariant_to": ["typo"], "min_rate": 0.9, "direction": "up"}, "write 'same' or 'not lower'"),
        ({"slice": "group", "cluster": "group"}, "every slice would be a single cluster"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(given: dict[str, Any], said: str) -> None:
    assert said in next(mistakes(given))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"primary": True, "min_gain": 0.1, "confidence": 0.99},
        {"slice": "tags", "protected": ["negative", "borderline"], "cluster": "group"},
        {"slice": "group"},
        {"min_rate": None, "suite": None},
    ],
)
def test_what_can_be_meant_is_taken(given: dict[str, Any]) -> None:
    assert list(mistakes(given)) == []
