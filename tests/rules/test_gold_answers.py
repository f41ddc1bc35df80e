"""Rules on the answers that the rows expect: what is broken, what judges nothing, and what cannot be told."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_finetune import rules
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.contract_rules import LabelRules
from pytest_finetune.data.rows import Row
from pytest_finetune.judging.rule import Rule, RuleBroken
from pytest_finetune.judging.scores import SelfTest
from pytest_finetune.suite.rules import gold_answers

CONTRACT = Contract(None, None, labels=LabelRules("label", ("high", "low")))


def rows(*expected: str) -> list[Row]:
    return [
        Row("eval.jsonl", n, 0, "s", "say", f"case {n}", text, None, (), None, {}, f"r{n}")
        for n, text in enumerate(expected, 1)
    ]


def labelled(*labels: str) -> list[Row]:
    return rows(*(json.dumps({"label": label}) for label in labels))


def _unreadable(response: Any) -> None:
    raise OSError("the rubric is not there")


def result_of(function: Callable[..., None], given: list[Row], **asked: Any) -> SelfTest | None:
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    item: Any = SimpleNamespace(
        obj=function, name="test_x", funcargs={}, _fixtureinfo=SimpleNamespace(argnames=names)
    )
    return gold_answers.tested(item, Rule("x", **asked), given, {"contract": CONTRACT})


def told(function: Callable[..., None], given: list[Row], **asked: Any) -> str:
    with pytest.raises(RuleBroken) as broken:
        result_of(function, given, **asked)
    return str(broken.value)


def test_a_rule_that_knows_right_from_wrong_passes_gold_and_fails_the_answers_of_others() -> None:
    found = result_of(rules.label_agreement(), labelled("high", "low", "high", "low"))
    assert found is not None
    assert found.as_json() == {"gold": {"passed": 4, "total": 4}, "shuffled": {"passed": 0, "total": 4}}
    assert not found.blind
    assert SelfTest.of_json(found.as_json()) == found


def test_every_row_gets_an_answer_that_differs_from_its_own_where_there_is_one() -> None:
    expected = ["a"] * 90 + ["b"] * 9 + ["c"]
    others = list(gold_answers._other_answers(expected))
    assert all(other in {"a", "b", "c"} - {own} for own, other in zip(expected, others, strict=True))
    assert {other for own, other in zip(expected, others, strict=True) if own == "a"} == {"b", "c"}
    assert list(gold_answers._other_answers(["a"] * 3)) == [None] * 3


def test_many_rows_are_all_tried_on_their_own_answer_and_a_draw_of_them_on_another() -> None:
    many = labelled(*["high", "low"] * 200)
    found = result_of(rules.label_agreement(), many)
    assert found is not None
    assert found.as_json() == {"gold": {"passed": 400, "total": 400}, "shuffled": {"passed": 0, "total": 200}}
    tried = gold_answers._tried_on_another(many)
    assert tried == gold_answers._tried_on_another(many[::-1])
    assert tried != {row.id for row in many[:200]}


def test_a_format_passes_the_answers_of_others_as_often() -> None:
    found = result_of(rules.strict_json(), labelled("high", "low", "high"))
    assert found is not None
    assert found.blind
    same = result_of(rules.strict_json(), labelled("high", "high"))
    assert same is not None
    assert not same.blind  # there is no other answer to tell it by


def test_a_rule_that_fails_expected_answers_is_named_with_row_reason_and_answer() -> None:
    def test_priority(response: Any, example: Any) -> None:
        assert response.json()["priority"] == example.expected_json()["priority"]

    said = told(test_priority, rows("high", "low", '{"priority": "low"}'))
    assert said.startswith(
        "fails its own gold answer on 2 of 3 rows: eval.jsonl:1: NotJson: not JSON at character 0: 'high'; "
        "the expected answer is 'high': mend the rule or the rows"
    )


def test_a_grade_of_nought_is_a_failure_and_less_than_all_is_none() -> None:
    def graded(response: Any, example: Any, score: Any) -> None:
        score(0.5 if response.text == example.expected else 0.25)

    found = result_of(graded, rows("a", "b"))
    assert found is not None
    assert found.as_json() == {"gold": {"passed": 1, "total": 2}, "shuffled": {"passed": 0.5, "total": 2}}

    def nothing(response: Any, score: Any) -> None:
        score(0.0 if response.text == "b" else 0.5)

    assert "fails its own gold answer on 1 of 2 rows: eval.jsonl:2: it scores 0;" in told(
        nothing, rows("a", "b")
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            _unreadable,
            "fails with OSError: the rubric is not there on the gold answer of eval.jsonl:1",
        ),
        (lambda response: response.text == "a", "it returned True: a rule asserts"),
    ],
)
def test_what_is_wrong_with_the_rule_itself_is_said_before_any_model_is_asked(
    body: Callable[..., None], said: str
) -> None:
    assert said in told(body, rows("a", "b"))


def test_how_an_answer_came_cannot_be_tested() -> None:
    asked = {
        "stopped": rules.stops_by_itself(),
        "tokens": rules.length(max_tokens=3),
        "seconds": rules.latency(1),
    }
    for name, rule in asked.items():
        found = result_of(rule, rows("a", "b"))
        assert found is not None
        assert (found.reads, found.gold.total, found.blind) == (name, 0, False)
        assert SelfTest.of_json(found.as_json()) == found


def test_a_primary_rule_may_not_hang_on_a_clock() -> None:
    def fast(response: Any) -> None:
        assert 0 < response.seconds < 1

    said = told(fast, rows("a", "b"), primary=True)
    assert said.startswith("is primary and reads response.seconds, which hang on the machine")

    def shows(response: Any) -> None:
        assert repr(response) == f"<answer {response.text!r}>"

    assert result_of(shows, rows("a", "b")) is not None


def test_rows_that_expect_nothing_and_rows_that_the_rule_skips_are_left_out() -> None:
    def short(response: Any, example: Any) -> None:
        if example.id == "r1":
            pytest.skip("another time")
        assert response.text == "b"

    found = result_of(short, rows("a", "b", "", " "))
    assert found is not None
    assert found.gold.total == 1
    assert result_of(short, rows("a", "")) is None
    assert result_of(short, rows("")) is None


def test_a_corpus_rule_gets_all_expected_answers_together() -> None:
    due = labelled("high", "low", "low")
    found = result_of(rules.macro_f1(min_rate=0.5), due, corpus=True)
    assert found is not None
    assert found.as_json() == {"gold": {"passed": 1, "total": 1}, "shuffled": {"passed": 0, "total": 1}}
    said = told(rules.calibration("sure", min_rate=0.5), due, corpus=True)
    assert said.startswith("fails all 3 gold answers together: it scores 0: mend the rule")


def test_rules_about_perturbed_rows_and_judges_are_not_tested() -> None:
    def never(response: Any) -> None:
        raise AssertionError("no")

    assert result_of(never, rows("a"), invariant_to=("typo",), min_rate=0.5) is None
    assert result_of(never, rows("a"), judge=True) is None


def test_a_slow_rule_is_tested_on_as_many_rows_as_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gold_answers, "SECONDS", 0.0)
    found = result_of(rules.exact_match(), rows("a", "b", "c"))
    assert found is not None
    assert (found.gold.total, found.shuffled.total) == (1, 1)
