"""Whatever stands in a contract or a row: a ContractError or findings, never another exception."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_finetune.data.contract import Contract, ContractError, schema

QUICK = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

WORDS = st.sampled_from(
    [
        "json",
        "text",
        "forbid",
        "allow",
        "x",
        "(",
        "[a-z]+",
        "a.b",
        "2026-01-01",
        "data/conflict",
        "data/conflikt",
        "a b",
    ]
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(0, 1), WORDS)
PARTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["type", "enum", "properties", "rule", "reason", "field", "values", "train"]),
            inner,
        ),
    ),
    max_leaves=6,
)


def sections() -> st.SearchStrategy[dict[str, Any]]:
    """Contracts whose keys are mostly known and whose values are anything."""
    described = schema()["properties"]
    drawn: dict[str, st.SearchStrategy[Any]] = {}
    for name, rule in described.items():
        known = dict.fromkeys(rule.get("properties", {}), PARTS)
        drawn[name] = st.one_of(PARTS, st.fixed_dictionaries({}, optional=known)) if known else PARTS
    return st.fixed_dictionaries({}, optional=drawn)


ROWS = st.fixed_dictionaries(
    {"instruction": st.text(max_size=8), "output": st.one_of(st.text(max_size=12), PARTS.map(json.dumps))},
    optional={"input": st.text(max_size=20), "tags": st.just(["a"]), "group": WORDS, "id": WORDS},
)


@QUICK
@given(tree=sections(), rows=st.lists(ROWS, max_size=4))
def test_any_contract_is_refused_in_words_or_checks_any_rows(
    project: Any, tree: dict[str, Any], rows: Any
) -> None:
    with suppress(ContractError):
        contract = project.contract(json.dumps(tree))
        contract.findings(project.train(rows), project.held_out(rows)).explain()


FULL = """\
instruction: Sort.
output: {schema: {type: object, properties: {a: {type: string, pattern: "^x"}, b: {items: {minimum: 1}}}}}
labels: {field: a.b, values: [x, 1], min_per_label: 1, max_share: 0.5}
tags: {train: {a: 1}, eval: {b: 1}}
out_of_scope_patterns: ["(?i)policy"]
"""


@QUICK
@given(train=st.lists(ROWS, max_size=5), held_out=st.lists(ROWS, max_size=5))
def test_any_rows_are_checked_by_a_full_contract_and_by_the_default(
    project: Any, train: Any, held_out: Any
) -> None:
    files = project.train(train), project.held_out(held_out)
    for contract in (project.contract(FULL), Contract.default()):
        found = contract.findings(*files)
        assert json.loads(json.dumps([one.as_json() for one in found])) == [one.as_json() for one in found]
        assert all(one.read.isprintable() for one in found)


@QUICK
@given(answer=st.one_of(st.text(), PARTS.map(json.dumps)))
def test_any_answer_has_a_list_of_problems(project: Any, answer: str) -> None:
    contract = project.contract(FULL)
    assert isinstance(contract.problems_of(answer), list)
    assert contract.label_of(answer) is None or isinstance(contract.label_of(answer), str)
