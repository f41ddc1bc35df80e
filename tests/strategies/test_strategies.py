"""Every drawn valid answer keeps its contract, every broken one breaks it; perturbations stay near."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pytest_finetune import strategies
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.perturbations import KINDS, NAMES, perturb
from pytest_finetune.data.strict_json import StrictParser
from pytest_finetune.strategies.json_values import UnsupportedSchema, values

TICKET = {
    "type": "object",
    "required": ["priority", "reason"],
    "additionalProperties": False,
    "properties": {
        "priority": {"enum": ["critical", "high", "medium", "low"]},
        "reason": {"type": "string", "minLength": 1},
    },
}
INVOICE = {
    "type": "object",
    "required": ["total", "items", "date"],
    "additionalProperties": False,
    "properties": {
        "total": {"type": "number", "minimum": 0, "exclusiveMaximum": 10_000},
        "date": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
        "paid": {"type": ["boolean", "null"]},
        "items": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"$ref": "#/$defs/item"}},
    },
    "$defs": {
        "item": {
            "type": "object",
            "required": ["name", "count"],
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "minLength": 1},
                "count": {"type": "integer", "minimum": 1},
            },
        }
    },
}
SCHEMAS: dict[str, Any] = {
    "ticket": TICKET,
    "invoice": INVOICE,
    "union": {
        "oneOf": [
            {
                "required": ["answer"],
                "properties": {"answer": {"type": "string"}},
                "additionalProperties": False,
            },
            {
                "required": ["refusal"],
                "properties": {"refusal": {"const": True}},
                "additionalProperties": False,
            },
        ],
        "type": "object",
    },
    "tags": {"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b", "c", "d"]}, "maxItems": 3},
    "number": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    "condition": {
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"enum": ["x", "y"]}, "note": {"type": "string"}},
        "if": {"properties": {"kind": {"const": "x"}}},
        "then": {"required": ["note"]},
    },
    "both": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"required": ["b"], "properties": {"b": {"type": "string"}}},
        ]
    },
}


def contract_of(schema: Any) -> Contract:
    return replace(Contract.default(), output_format="json", schema=schema)


VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}


def is_valid(name: str, text: str) -> bool:
    parsed = StrictParser().parse(text)
    return not parsed.faults and VALIDATORS[name].is_valid(parsed.value)


def named(make: Callable[[Contract], st.SearchStrategy[str]]) -> st.SearchStrategy[tuple[str, str]]:
    return st.one_of(
        *(st.tuples(st.just(name), make(contract_of(schema))) for name, schema in SCHEMAS.items())
    )


DRAWS = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],
)


@pytest.mark.parametrize("draws", [500, pytest.param(10_000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(("make", "valid"), [(strategies.outputs, True), (strategies.broken_outputs, False)])
def test_every_drawn_answer_is_what_it_is_drawn_as(
    make: Callable[[Contract], st.SearchStrategy[str]], valid: bool, draws: int
) -> None:
    @settings(DRAWS, max_examples=draws)
    @given(drawn=named(make))
    def check(drawn: tuple[str, str]) -> None:
        assert is_valid(*drawn) is valid

    check()


def test_some_hundred_broken_answers_break_in_many_ways() -> None:
    seen = set()

    @settings(max_examples=300, deadline=None, database=None)
    @given(answer=strategies.broken_outputs(contract_of(TICKET)))
    def collect(answer: str) -> None:
        parsed = StrictParser().parse(answer)
        seen.add(parsed.faults[0].kind if parsed.faults else "schema")

    collect()
    assert {"syntax", "duplicate-key", "non-finite", "schema"} <= seen


@pytest.mark.parametrize(
    "word", ["patternProperties", "contains", "dependentRequired", "unevaluatedProperties"]
)
def test_a_schema_beyond_the_known_words_is_refused_by_name(word: str) -> None:
    with pytest.raises(UnsupportedSchema, match=word):
        values({"type": "object", "properties": {"a": {word: {}}}})


def test_text_contracts_draw_labels_and_patterns(project: Any) -> None:
    labels = project.contract("output: {format: text}\nlabels: {values: [high, low]}\n")
    pattern = project.contract("output: {format: text, pattern: '[A-Z]{2}-[0-9]+'}\n")

    @settings(max_examples=100, deadline=None, database=None)
    @given(
        one=strategies.outputs(labels),
        two=strategies.outputs(pattern),
        broken=strategies.broken_outputs(labels),
    )
    def check(one: str, two: str, broken: str) -> None:
        assert one in ("high", "low")
        assert pattern.problems_of(two) == []
        assert labels.problems_of(broken)

    check()
    with pytest.raises(ValueError, match="nothing can break it"):
        strategies.broken_outputs(project.contract("task: t\n"))


def test_a_drawn_row_has_no_answer_in_another_unicode_form(project: Any) -> None:
    contract = project.contract('output: {schema: {enum: ["e\\u0301", "x"]}}\n')

    @settings(max_examples=20, deadline=None, database=None)
    @given(row=strategies.rows(contract))
    def check(row: dict[str, Any]) -> None:
        assert json.loads(row["output"]) == "x"

    check()


def test_drawn_rows_keep_their_contract(project: Any) -> None:
    text = (
        "instruction: [Classify., Sort.]\n"
        f"output: {{schema: {json.dumps(TICKET)}}}\n"
        "tags: {eval: {borderline: 1}}\nout_of_scope_patterns: [printer]\n"
    )
    contract = project.contract(text)

    @settings(max_examples=25, deadline=None, database=None)
    @given(row=strategies.rows(contract), held_out=strategies.rows(contract, held_out=True))
    def check(row: dict[str, Any], held_out: dict[str, Any]) -> None:
        allowed = {"data/conflict", "data/duplicate-row", "tags/too-few"}
        found = contract.findings(
            project.train([row]), project.held_out([{**held_out, "input": "zebra zoo"}])
        )
        assert {one.rule for one in found} <= allowed
        assert set(held_out.get("tags", [])) <= {"borderline"}

    check()


QUESTION = "Amara cannot print 25 invoices since Monday. The printer on floor 3 blinks."


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_changes_a_question_and_the_same_seed_changes_it_alike(kind: str) -> None:
    made = {perturb(QUESTION, kind, seed) for seed in range(40)} - {QUESTION}
    assert made
    assert perturb(QUESTION, kind, 7) == perturb(QUESTION, kind, 7)


@given(text=st.text(max_size=40), kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**32))
def test_any_text_can_be_given(text: str, kind: str, seed: int) -> None:
    assert isinstance(perturb(text, kind, seed), str)


def test_each_kind_does_what_it_says() -> None:
    for seed in range(60):
        assert perturb(QUESTION, "case", seed).lower() == QUESTION.lower()
        assert perturb(QUESTION, "white space", seed).split() == QUESTION.split()
        assert abs(len(perturb(QUESTION, "typo", seed)) - len(QUESTION)) <= 1
        swapped = perturb(QUESTION, "name swap", seed)
        assert "Amara" not in swapped
        assert swapped.split()[0] in NAMES
        numbered = perturb(QUESTION, "number swap", seed)
        assert [character.isdigit() for character in numbered] == [
            character.isdigit() for character in QUESTION
        ]
        added = perturb(QUESTION, "distractor", seed)
        assert added.startswith("Amara cannot print 25 invoices since Monday.")
        assert "The printer on floor 3 blinks." in added
        assert len(added) > len(QUESTION) + 10


@settings(max_examples=200, deadline=None)
@given(changed=strategies.perturbations(QUESTION))
def test_a_drawn_perturbation_is_another_text_and_names_its_kind(changed: strategies.Perturbed) -> None:
    assert changed.text != QUESTION
    assert changed.kind in KINDS


def test_kinds_that_are_unknown_or_cannot_change_the_text_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown kinds of perturbation"):
        strategies.perturbations("a", kinds=["tpyo"])
    with pytest.raises(ValueError, match="none of number swap can change 'no digits'"):
        strategies.perturbations("no digits", kinds=["number swap"])


def test_kinds_are_plain_functions(make_row: Callable[..., Any]) -> None:
    assert KINDS["case"]("Abc", random.Random(1)).lower() == "abc"
