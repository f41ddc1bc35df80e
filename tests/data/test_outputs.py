"""Answers: exactly one JSON value that keeps the schema, or a text that keeps the pattern."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pytest_finetune.data.checks.outputs import engines_agree, schema_errors

SCHEMA = """\
output:
  schema:
    type: object
    required: [priority, reason]
    additionalProperties: false
    properties: {priority: {enum: [high, low]}, reason: {type: string, minLength: 1}}
"""
GOOD = '{"priority": "low", "reason": "minor"}'


@pytest.mark.parametrize(
    ("answer", "rule", "said"),
    [
        (
            "I think this ticket is not urgent, so low.",
            "output/not-json",
            "'I think this ticket is not urgent, so low.'",
        ),
        (f"Here you are: {GOOD}", "output/extra-text", "text around the JSON: 'Here you are:'"),
        (f"{GOOD} Hope this helps!", "output/extra-text", "text around the JSON: 'Hope this helps!'"),
        (f"```json\n{GOOD}\n```", "output/extra-text", "text around the JSON: '```json'"),
        (
            '{"priority": "low", "reason": "a", "reason": "b"}',
            "output/duplicate-key",
            "'reason' stands more than once",
        ),
        ('{"priority": "low", "reason": NaN}', "output/non-finite", "NaN"),
        ('{"priority": "low", "reason": "\\ud800"}', "output/lone-surrogate", "half of a surrogate pair"),
        ("[" * 100, "output/deep-nesting", "nested deeper than 64"),
        (
            '{"priority": "urgent", "reason": "a"}',
            "output/schema",
            "priority: 'urgent' is not one of ['high', 'low']",
        ),
        ('{"priority": "low"}', "output/schema", "'reason' is a required property"),
        ('{"priority": "low", "reason": "a", "x": 1}', "output/schema", "Additional properties"),
        ("17", "output/schema", "17 is not of type 'object'"),
    ],
)
def test_a_wrong_answer_is_named_by_file_and_line(
    project: Any, make_row: Any, answer: str, rule: str, said: str
) -> None:
    rows = [make_row("alpha beta", GOOD), make_row("gamma delta", answer)]
    found = project.findings(SCHEMA, rows, [make_row("zebra", GOOD, key="expected")])
    assert [(one.rule, one.place) for one in found] == [(rule, "train.jsonl:2")]
    assert said in found[0].read


def test_held_out_answers_are_checked_as_well(project: Any, make_row: Any) -> None:
    found = project.findings(SCHEMA, [make_row("alpha", GOOD)], [make_row("zebra", "low", key="expected")])
    assert [(one.rule, one.place) for one in found] == [("output/not-json", "eval.jsonl:1")]


def test_keys_in_two_orders_are_found_in_the_rows_of_the_rarer_one(project: Any, make_row: Any) -> None:
    turned = '{"reason": "minor", "priority": "low"}'
    rows = [make_row("alpha", GOOD), make_row("beta", turned), make_row("gamma", GOOD)]
    held_out = [make_row("zebra", GOOD, key="expected")]
    (found,) = project.findings(SCHEMA, rows, held_out)
    assert (found.rule, found.line) == ("output/key-order", 2)
    assert "3 rows have priority, reason" in found.read
    assert project.findings(SCHEMA + "  stable_keys: false\n", rows, held_out) == []


def test_text_answers_keep_a_pattern_as_a_whole(project: Any, make_row: Any) -> None:
    contract = "output: {format: text, pattern: 'high|low'}\n"
    rows = [make_row("alpha", "low"), make_row("beta", "lower"), make_row("gamma", "low\n")]
    found = project.findings(contract, rows)
    assert [(one.rule, one.line) for one in found] == [("output/pattern", 2), ("output/pattern", 3)]


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "^\\d+$"},
        {"properties": {"a": {"format": "date"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {}}},
        {"items": {"multipleOf": 0.1}},
        {"anyOf": [{"type": "string"}, {"pattern": "a"}]},
    ],
)
def test_where_engines_differ_jsonschema_alone_judges(schema: dict[str, Any]) -> None:
    assert not engines_agree(schema)


def test_the_reference_decides_on_dialects_of_regular_expressions() -> None:
    schema = {"type": "string", "pattern": "^\\d+$"}
    assert schema_errors(schema)("\u0967\u0968") == []  # Devanagari digits are digits to Python


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 5),
        st.just(2**70),
        st.just(1.0),
        st.just(1.5),
        st.text("ab\U0001f600", max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=6,
)
NUMBERS = st.integers(0, 3)
LEAVES = st.one_of(
    st.booleans(),
    st.builds(lambda v: {"const": v}, VALUES),
    st.builds(lambda v: {"enum": v}, st.lists(VALUES, min_size=1, max_size=3)),
    st.builds(
        lambda v: {"type": v},
        st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"]),
    ),
    st.builds(
        lambda k, v: {k: v},
        st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
        NUMBERS,
    ),
    st.builds(
        lambda k, v: {k: v},
        st.sampled_from(["minLength", "maxLength", "minItems", "maxItems", "minProperties"]),
        NUMBERS,
    ),
    st.just({"uniqueItems": True}),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda v: {"properties": {"a": v}, "additionalProperties": False}, inner),
        st.builds(lambda v: {"items": v}, inner),
        st.builds(
            lambda k, v: {k: v},
            st.sampled_from(["anyOf", "allOf", "oneOf"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
        st.builds(lambda v: {"not": v}, inner),
        st.builds(lambda a, b, c: {"if": a, "then": b, "else": c}, inner, inner, inner),
    ),
    max_leaves=5,
)


@settings(max_examples=600, deadline=None)
@given(schema=SCHEMAS, value=VALUES)
def test_screened_and_plain_validation_say_the_same(schema: Any, value: Any) -> None:
    value = json.loads(json.dumps(value))
    assert engines_agree(schema)
    assert (schema_errors(schema)(value) == []) == Draft202012Validator(schema).is_valid(value)
