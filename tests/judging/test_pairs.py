"""Pairs of arms beside the tuned one."""

from __future__ import annotations

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import pairs_of
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores


def case(*rules: Rule, executed: bool = True) -> Case:
    columns = {"baseline": 10, "champion": 40, "prompted": 30, "tuned": 50}
    rows = tuple(f"r{i}" for i in range(60))
    arms = {arm: tuple(float(i < count) for i in range(60)) for arm, count in columns.items()}
    scores = {rule.name: Scores(rule.name, rows, arms=arms, executed=executed) for rule in rules}
    return Case(rules=rules, scores=scores, defaults=DecisionDefaults(), arms=tuple(columns))


def test_every_pair_without_the_tuned_arm_is_compared_under_every_rule() -> None:
    found = list(pairs_of(case(Rule("priority", primary=True), Rule("json"))))
    assert [(one["rule"], one["arm"], one["against"]) for one in found] == [
        (rule, *pair)
        for rule in ("priority", "json")
        for pair in (("champion", "baseline"), ("prompted", "baseline"), ("prompted", "champion"))
    ]
    first, _, last = found[:3]
    assert (first["gain"], first["fixed"], first["broken"]) == (0.5, 30, 0)
    assert (last["fixed"], last["broken"]) == (0, 10)
    assert first["interval"][0] > 0 > last["interval"][1]
    assert first["p_value"] < 0.001 < last["p_value"]


def test_a_rule_that_did_not_run_or_judges_whole_files_has_no_pairs() -> None:
    assert list(pairs_of(case(Rule("priority"), executed=False))) == []
    assert list(pairs_of(case(Rule("collapse", corpus=True)))) == []
