"""The ready rules, called as the plugin calls them: what passes, and what a failed answer is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pytest_finetune import rules
from pytest_finetune.answering.response import Response
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.contract_rules import LabelRules
from pytest_finetune.data.rows import Row, Rows
from pytest_finetune.judging.rule import RuleBroken

CONTRACT = Contract(
    None,
    None,
    output_format="json",
    schema={"type": "object", "required": ["label"], "properties": {"label": {"enum": ["high", "low"]}}},
    labels=LabelRules("label", ("high", "low")),
)
LABELLED = '{"label": "high"}'


def row(expected: str = LABELLED, asked: str = "a question") -> Row:
    return Row("eval.jsonl", 3, 0, "s", "say", asked, expected, None, (), None, {}, "r")


def said(rule: Callable[..., None], text: str, **own: Any) -> str:
    """Return what the rule says of an answer; empty when it passes."""
    has = {"contract": CONTRACT, "example": row(), "confusion": lambda *pair: None, **own}
    names = rule.__code__.co_varnames[: rule.__code__.co_argcount]
    answer = own.get("response", Response(text, tokens=4, seconds=0.5))
    try:
        rule(**{"response": answer, **{name: has[name] for name in names if name != "response"}})
    except AssertionError as failure:
        return str(failure)
    return ""


@pytest.mark.parametrize(
    ("rule", "text", "told"),
    [
        (rules.strict_json(), LABELLED, ""),
        (rules.strict_json(), "Sure! " + LABELLED, "not strict JSON"),
        (rules.strict_json(), '{"label": 1, "label": 2}', "stands more than once"),
        (rules.strict_json(), "NaN", "NaN is not JSON"),
        (rules.strict_json(), "1e999", "too large for a float"),
        (rules.strict_json(keys=["label"]), LABELLED, ""),
        (rules.strict_json(keys=["label"]), "[1]", "not an object"),
        (rules.strict_json(keys=["label", "why"]), '{"label": 1, "x": 2}', "lacks 'why'; has 'x'"),
        (rules.output_schema(), LABELLED, ""),
        (rules.output_schema(), '{"label": "urgent"}', "'urgent' is not one of"),
        (rules.output_schema({"type": "array"}), "[1]", ""),
        (rules.output_schema({"type": "array"}), "{}", "is not of type 'array'"),
        (rules.no_prose_around_json(), LABELLED, ""),
        (rules.no_prose_around_json(), " {broken} ", ""),
        (rules.no_prose_around_json(), "Sure: {}", "text before the JSON: 'Sure:'"),
        (rules.no_prose_around_json(), "{} Bye", "text after the JSON: 'Bye'"),
        (rules.no_prose_around_json(), "```json\n{}\n```", "text before the JSON: '```json'"),
        (rules.no_prose_around_json(), "nothing", "no JSON object or list at all: 'nothing'"),
        (rules.matches_pattern(r"[A-Z]{2}-\d+"), " AB-12 ", ""),
        (rules.matches_pattern(r"[A-Z]{2}-\d+"), "AB-12!", "does not match"),
        (rules.exact_match(), LABELLED + "\n", ""),
        (rules.exact_match(strip=False), LABELLED + "\n", "expected"),
        (rules.exact_match(case=False), LABELLED.upper(), ""),
        (rules.exact_match(), LABELLED.upper(), "said"),
        (rules.field_equals("label"), '{"label": "high", "why": 1}', ""),
        (rules.field_equals("label"), '{"label": "low"}', "label is 'low', expected 'high'"),
        (rules.field_equals("label"), '{"why": "low"}', "has no field 'label'"),
        (rules.allowed_label(), '{"label": "low"}', ""),
        (rules.allowed_label(), '{"label": "urgent"}', "'urgent' is none of high, low"),
        (rules.allowed_label(), "prose", "no label in 'prose'"),
        (rules.allowed_label("why", ["a"]), '{"why": "b"}', "'b' is none of a"),
        (rules.label_agreement(), LABELLED, ""),
        (rules.label_agreement(), '{"label": "low"}', "said 'low', expected 'high'"),
        (rules.label_agreement("label"), "prose", "no label, expected 'high'"),
        (rules.length(max_tokens=4, min_chars=2), "yes", ""),
        (rules.length(max_tokens=3), "yes", "4 tokens, at most 3 are asked for"),
        (rules.length(min_chars=4), "yes", "3 characters, at least 4 are asked for"),
        (rules.stops_by_itself(), "yes", ""),
        (rules.latency(0.5), "yes", ""),
        (rules.latency(0.25), "yes", "0.5 s, at most 0.25 s are asked for"),
    ],
)
def test_what_passes_and_what_a_failed_answer_is_told(
    rule: Callable[..., None], text: str, told: str
) -> None:
    found = said(rule, text)
    assert told in found
    assert bool(told) == bool(found)


def test_true_is_not_one() -> None:
    assert (
        said(rules.field_equals("sure"), '{"sure": 1}', example=row('{"sure": true}'))
        == "sure is '1', expected 'True'"
    )


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        ("1", "1.0", True),
        ("1e2", "100", True),
        ('{"a": [1, {"b": 2.0}]}', '{"a": [1.0, {"b": 2}]}', True),
        ('{"b": 1, "a": null}', '{"a": null, "b": 1}', True),
        ("1", "true", False),
        ("[1]", "[true]", False),
        ("0", "false", False),
        ('"1"', "1", False),
        ("[1, 2]", "[1]", False),
        ('{"a": 1}', '{"a": 1, "b": 1}', False),
        ("0", "null", False),
        ("9007199254740993", "9007199254740992", False),
        ("9007199254740993", "9007199254740992.0", False),
    ],
)
def test_a_field_is_equal_by_value_and_type(given: str, wanted: str, same: bool) -> None:
    told = said(rules.field_equals("f"), f'{{"f": {given}}}', example=row(f'{{"f": {wanted}}}'))
    assert (told == "") == same, told


def test_labels_of_different_json_types_differ() -> None:
    counted: list[tuple[str | None, str | None]] = []
    rule = rules.label_agreement("label")

    def judged(given: str, wanted: str) -> str:
        own: dict[str, Any] = {
            "example": row(f'{{"label": {wanted}}}'),
            "confusion": lambda *pair: counted.append(pair),
        }
        return said(rule, f'{{"label": {given}}}', **own)

    assert judged('"1"', "1") == """said '"1"', expected '1'"""
    assert judged("true", '"true"') == """said 'true', expected '"true"'"""
    assert judged("1", "true") == "said '1', expected 'true'"
    assert judged("1.0", "1") == judged('"1"', '"1"') == judged('"high"', '"high"') == ""
    assert judged("1e999", "1").startswith("no label, expected '1'")
    assert counted[0] == ("1", '"1"')
    assert counted[3] == ("1", "1")


@pytest.mark.parametrize(
    ("labels", "answer", "told"),
    [
        ((1, 2), '{"label": 1}', ""),
        ((1, 2), '{"label": 2.0}', ""),
        ((1, 2), '{"label": "1"}', """'"1"' is none of 1, 2"""),
        (("1", "2"), '{"label": "1"}', ""),
        (("1", "2"), '{"label": 1}', """'1' is none of "1", "2\""""),
        ((True, False), '{"label": 1}', "'1' is none of true, false"),
    ],
)
def test_an_allowed_label_has_the_type_that_it_was_declared_in(
    labels: tuple[object, ...], answer: str, told: str
) -> None:
    contract = Contract(None, None, labels=LabelRules("label", labels))
    assert said(rules.allowed_label(), answer, contract=contract) == told
    assert said(rules.allowed_label("label", labels), answer) == told  # type: ignore[arg-type]


def test_where_the_whole_answer_is_the_label_numbers_are_texts() -> None:
    contract = Contract(None, None, labels=LabelRules(None, (1, 2)))
    assert said(rules.allowed_label(), "1\n", contract=contract) == ""
    assert said(rules.allowed_label(), "3", contract=contract) == "'3' is none of 1, 2"
    assert said(rules.label_agreement(), "1", contract=contract, example=row("1")) == ""


def test_an_answer_that_was_cut_did_not_stop() -> None:
    cut = Response("yes", tokens=80, stopped=False)
    assert said(rules.stops_by_itself(), "", response=cut) == "cut at the token limit after 80 tokens"


def test_training_text_may_be_said_only_where_the_row_itself_says_it() -> None:
    train = Rows([row("one two three four five")], path="train.jsonl", split="train")
    rule = rules.no_training_text(words=4)
    assert (
        said(rule, "So: one, two three FOUR", train_rows=train)
        == "repeats training text: 'one two three four'"
    )
    assert said(rule, "one two three", train_rows=train) == ""
    asked = row(asked="what of one two three four?")
    assert said(rule, "one two three four", train_rows=train, example=asked) == ""


@pytest.mark.parametrize(
    ("rule", "own", "told"),
    [
        (rules.output_schema(), {"contract": Contract.default()}, "the contract has no output section"),
        (rules.allowed_label(), {"contract": Contract.default()}, "no closed set of labels"),
        (rules.label_agreement(), {"contract": Contract.default()}, "the contract names no labels"),
        (
            rules.label_agreement(),
            {"example": row("{}")},
            "the expected answer of eval.jsonl:3 carries no label",
        ),
        (rules.field_equals("label"), {"example": row("{}")}, "eval.jsonl:3 has no field 'label'"),
        (rules.latency(1), {"response": Response("x")}, "carries no measured seconds"),
    ],
)
def test_a_rule_that_cannot_judge_is_broken_and_fails_no_row(
    rule: Callable[..., None], own: dict[str, Any], told: str
) -> None:
    with pytest.raises(RuleBroken, match=told):
        said(rule, LABELLED, **own)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: rules.strict_json(keys="label"), "keys='label': write a list of names"),
        (lambda: rules.matches_pattern("("), "a regular expression"),
        (lambda: rules.length(), "name a limit"),
        (lambda: rules.length(max_tokens=-1), "max_tokens=-1: write a whole number"),
        (lambda: rules.latency(0), "max_seconds=0: write seconds above 0"),
        (lambda: rules.no_training_text(words=1), "words=1: write a whole number of at least 3"),
        (lambda: rules.field_equals(""), "field='': write the name of a field"),
        (lambda: rules.allowed_label(labels="high"), "labels='high': write a list of labels"),
        (lambda: rules.no_label_collapse(max_share=0), "max_share=0: write a share"),
        (lambda: rules.calibration("sure", min_rate=0.9, bins=1), "bins=1: write a whole number"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused_where_it_is_written(
    make: Callable[[], Any], told: str
) -> None:
    with pytest.raises(ValueError, match=r"write|limit") as refused:
        make()
    assert told in str(refused.value)


def whole(rule: Callable[..., None], texts: Sequence[str], expected: Sequence[str]) -> float | str:
    """Run a corpus rule; return its grade, or what it says."""
    grades: list[float] = []
    own: dict[str, Any] = {
        "responses": [Response(text) for text in texts],
        "examples": [row(text) for text in expected],
        "contract": CONTRACT,
        "score": grades.append,
    }
    names = rule.__code__.co_varnames[: rule.__code__.co_argcount]
    try:
        rule(**{name: own[name] for name in names})
    except AssertionError as failure:
        return str(failure)
    return grades[0] if grades else 1.0


def labels(*names: str) -> list[str]:
    return [json.dumps({"label": name}) for name in names]


def test_macro_f1_agrees_with_a_count_by_hand() -> None:
    # high: 2 hits, said 3, due 2 -> 4/5; low: 1 hit, said 1, due 3 -> 2/4; the answer in prose counts against low.
    texts = [*labels("high", "high", "high", "low"), "prose"]
    found = whole(rules.macro_f1(min_rate=0.5), texts, labels("high", "high", "low", "low", "low"))
    assert found == pytest.approx((0.8 + 0.5) / 2)


def test_a_collapse_is_named_unless_the_label_is_due() -> None:
    rule = rules.no_label_collapse(max_share=0.8)
    due = labels("high", *["low"] * 9)
    assert (
        whole(rule, labels(*["high"] * 9, "low"), due)
        == "9 of 10 answers say 'high', which is expected 1 times"
    )
    assert whole(rule, labels(*["low"] * 9, "high"), labels(*["low"] * 9, "high")) == 1.0
    assert whole(rule, ["prose"] * 10, due) == "no answer carries a label"


def test_calibration_compares_what_is_stated_with_what_is_right() -> None:
    def answer(label: str, sure: float) -> str:
        return json.dumps({"label": label, "sure": sure})

    rule = rules.calibration("sure", min_rate=0.9)
    due = labels(*["high"] * 10)
    honest = [answer("high", 0.75)] * 7 + [answer("low", 0.75)] * 3
    assert whole(rule, honest, due) == pytest.approx(0.95)
    assert whole(rule, [answer("low", 1.0)] * 10, due) == 0.0
    assert whole(rule, ["prose"] * 10, due) == 0.0
    assert whole(rule, ['{"label": "high", "sure": 1e999}'] * 10, due) == 0.0
    assert whole(rule, ['{"label": "high", "sure": "1"}'] * 10, due) == 0.0
    assert whole(rules.calibration("sure", "n", min_rate=0.9), ['{"n": "1", "sure": 1}'], ['{"n": 1}']) == 0.0
    assert whole(rules.calibration("sure", "n", min_rate=0.9), ['{"n": 1.0, "sure": 1}'], ['{"n": 1}']) == 1.0
