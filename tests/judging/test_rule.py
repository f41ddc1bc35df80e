"""A rule and the arguments of its marker: one table, from which help, checks, record and schema follow."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_finetune.data.perturbed import WAYS as PERTURBATIONS
from pytest_finetune.judging.rule import ARGUMENTS, RECORDED, WAYS, Rule, mistakes, signature
from pytest_finetune.record.case import rules_in
from pytest_finetune.record.validate import schema


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
        ({"pairwise": True}, "a judge says which answer is better: mark the rule judge=True"),
        ({"judge": True, "pairwise": True, "primary": True}, "it compares with the base alone"),
        ({"judge": True, "pairwise": True, "min_rate": 0.5}, "an answer may win by being shown first"),
        ({"judge": True, "pairwise": True, "labels": "a.jsonl"}, "not which of two is better"),
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


@pytest.mark.parametrize(
    ("asked", "guard"),
    [
        ({}, True),
        ({"max_loss": 0.02}, True),
        ({"max_loss": 0.02, "min_rate": 0.9}, True),
        ({"suite": "general"}, True),
        ({"min_rate": 0.9}, False),
        ({"min_gain": 0.1}, False),
        ({"primary": True}, False),
        ({"primary": True, "max_loss": 0.02}, False),
        ({"corpus": True}, False),
        ({"invariant_to": ["typo"], "min_rate": 0.9}, False),
    ],
)
def test_a_guard_is_recorded_as_the_decision_means_it(asked: dict[str, Any], guard: bool) -> None:
    rule = Rule.of_json("polite", asked)
    assert rule.guard is guard
    assert rule.as_json()["guard"] is guard


def test_a_guard_flag_of_an_older_record_is_not_trusted() -> None:
    told = {"guard": True, "primary": False, "min_rate": 0.9, "outcome": "passed", "sha256": "5f"}
    (rule,) = rules_in({"rules": {"strict_json": told}})
    assert not rule.guard


@pytest.mark.parametrize(
    "rule",
    [
        Rule("priority", primary=True, min_gain=0.1, confidence=0.99, cluster="group", sha256="5f"),
        Rule("label", slice="tags", protected=("negative",), changed_after_look=True),
        Rule("json", suite="general", max_loss=0.02, min_rate=0.5, min_rate_bound=0.4),
        Rule("collapse", corpus=True),
        Rule("steady", invariant_to=("typo",), direction="not lower", cluster="group", min_rate=0.9),
    ],
)
def test_a_rule_comes_back_from_its_record(rule: Rule) -> None:
    assert Rule.of_json(rule.name, rule.as_json()) == rule


def test_the_copies_of_a_row_count_together_in_an_invariance_rule() -> None:
    assert Rule.of_json("steady", {"invariant_to": ["typo"], "min_rate": 0.9}).cluster == "group"


def test_the_schema_of_a_recorded_rule_has_the_table_s_arguments() -> None:
    shipped = schema()["$defs"]["rule"]["properties"]
    assert set(Rule("polite").as_json()) <= set(shipped)
    for name in RECORDED:
        described = {key: value for key, value in shipped[name].items() if key != "description"}
        assert described == ARGUMENTS[name].kind.schema, name


def test_the_help_of_the_marker_names_every_argument_with_its_default() -> None:
    help_line = signature()
    assert help_line.startswith("eval_rule(*, primary=False, min_rate=None, min_rate_bound=None, ")
    assert help_line.endswith("name=None)")
    assert [part.partition("=")[0] for part in help_line[len("eval_rule(*, ") : -1].split(", ")] == list(
        ARGUMENTS
    )


def test_every_way_that_a_rule_may_name_can_be_asked_and_no_other() -> None:
    assert tuple(PERTURBATIONS) == WAYS
