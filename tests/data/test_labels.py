"""Labels and tags: closed set, numbers, shares, and an exact test of drift between the splits."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_finetune.data.checks.labels import drift_p_values, hypergeometric_p

WORDS = [
    "apple",
    "brick",
    "cloud",
    "delta",
    "eagle",
    "flame",
    "grape",
    "house",
    "igloo",
    "jelly",
    "koala",
    "lemon",
    "mango",
    "noble",
    "ocean",
    "piano",
    "quilt",
    "river",
]


def texts(count: int, start: int = 0) -> list[str]:
    """Texts that share no three words in a row."""
    return [f"{WORDS[n % 18]} {n} {WORDS[(n // 18) % 18]} {n * 7 + 1}" for n in range(start, start + count)]


def test_labels_outside_the_set_and_missing_ones_are_named(project: Any, make_row: Any) -> None:
    contract = "output: {format: json}\nlabels: {field: meta.kind, values: [a, b, 3], drift: 0}\n"
    answers: list[object] = [
        {"meta": {"kind": "a"}},
        {"meta": {"kind": "c"}},
        {"meta": {}},
        {"meta": {"kind": 3}},
    ]
    rows = [make_row(text, json.dumps(answer)) for text, answer in zip(texts(4), answers, strict=True)]
    found = project.findings(contract, rows, [make_row("zebra", '{"meta": {"kind": "b"}}', key="expected")])
    assert [(one.rule, one.place) for one in found] == [
        ("labels/missing", "train.jsonl:3"), ("labels/unknown", "train.jsonl:2"),
    ]  # fmt: skip
    assert found[1].read == "'c', allowed: a, b, 3"


def test_a_text_answer_is_its_own_label(project: Any, make_row: Any) -> None:
    contract = "output: {format: text}\nlabels: {values: [high, low]}\n"
    found = project.findings(contract, [make_row("alpha", "low"), make_row("beta", "medium")])
    assert [(one.rule, one.line) for one in found] == [("labels/unknown", 2)]


@pytest.mark.parametrize("closed", ["values: [high, High, low], ", ""])
def test_labels_that_differ_in_spelling_alone_are_one_warning(
    project: Any, make_row: Any, closed: str
) -> None:
    contract = f"output: {{format: text}}\nlabels: {{{closed}drift: 0}}\n"
    train = [
        make_row(text, answer) for text, answer in zip(texts(4), ["high", "low", "High", "high"], strict=True)
    ]
    found = project.findings(contract, train, [make_row("zebra", "high", key="expected")])
    assert [(one.rule, one.severity, one.file) for one in found] == [
        ("labels/spelling", "warning", "train.jsonl")
    ]
    assert found[0].read == "'high' on 3 rows and 'High' on 1 row differ in spelling alone"


def test_too_few_of_a_label_and_too_much_of_another_are_found_by_split(project: Any, make_row: Any) -> None:
    contract = (
        "output: {format: text}\nlabels: {values: [high, low], min_per_label: 2, max_share: 0.7, drift: 0}\n"
    )
    train = [make_row(text, "high" if n == 0 else "low") for n, text in enumerate(texts(8))]
    held_out = [
        make_row(text, "high" if n % 2 else "low", key="expected") for n, text in enumerate(texts(4, 100))
    ]
    found = project.findings(contract, train, held_out)
    assert [(one.rule, one.file) for one in found] == [
        ("labels/too-few", "train.jsonl"),
        ("labels/share", "train.jsonl"),
    ]
    assert "1 rows with the label 'high' (the contract asks for 2)" in found[0].read
    assert "'low' has 7 of 8 rows, 88% (the contract allows 70%)" in found[1].read


def test_a_shifted_mixture_is_found_and_an_equal_one_is_not(project: Any, make_row: Any) -> None:
    contract = "output: {format: text}\nlabels: {}\n"
    train = [make_row(text, "high" if n % 4 == 0 else "low") for n, text in enumerate(texts(200))]
    same = [
        make_row(text, "high" if n % 4 == 0 else "low", key="expected")
        for n, text in enumerate(texts(80, 500))
    ]
    other = [
        make_row(text, "high" if n % 4 else "low", key="expected") for n, text in enumerate(texts(80, 500))
    ]
    assert project.findings(contract, train, same) == []
    found = project.findings(contract, train, other)
    assert {one.rule for one in found} == {"labels/drift"}
    assert "'high' is 25.0% of training and 75.0% of held-out rows (exact p =" in found[0].read
    assert project.findings("output: {format: text}\nlabels: {drift: 0}\n", train, other) == []


def test_tags_are_counted_where_the_contract_asks(project: Any, make_row: Any) -> None:
    contract = "tags: {eval: {borderline: 2, negative: 1}}\n"
    held_out = [
        make_row("alpha", key="expected", tags=["borderline", "borderline"]),
        make_row("beta", key="expected", tags=["negative"]),
    ]
    (found,) = project.findings(contract, [make_row("gamma")], held_out)
    assert found.rule == "tags/too-few"
    assert found.read == "1 rows with the tag 'borderline' (the contract asks for 2)"


@settings(max_examples=60, deadline=None)
@given(a=st.integers(0, 30), b=st.integers(0, 30), c=st.integers(0, 30), d=st.integers(0, 30))
def test_the_exact_test_is_fishers(a: int, b: int, c: int, d: int) -> None:
    from scipy.stats import fisher_exact

    wanted = float(fisher_exact([[a, b], [c, d]])[1])
    assert hypergeometric_p(a, a + b, a + c, a + b + c + d) == pytest.approx(wanted, abs=1e-6)


def test_the_adjusted_level_holds_where_there_is_no_drift() -> None:
    import random

    rng = random.Random(5)
    alarms = 0
    for _ in range(400):
        draws = [rng.choice("aaabbc") for _ in range(120)]
        p_values = drift_p_values(Counter(draws[:80]), Counter(draws[80:]))
        alarms += min(p_values.values()) < 0.05
    assert alarms <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_large_tables_are_quick_and_finite() -> None:
    p_values = drift_p_values({"a": 500_000, "b": 300_000, "c": 200_000}, {"a": 2500, "b": 1500, "c": 1000})
    assert all(value > 0.99 for value in p_values.values())
    shifted = drift_p_values({"a": 500_000, "b": 500_000}, {"a": 2700, "b": 2300})
    assert shifted["a"] < 1e-6
