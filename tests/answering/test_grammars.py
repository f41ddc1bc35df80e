"""What answers are held to: a schema, or a closed set of text labels, as llguidance reads them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.arm_plans import CONSTRAINED, planned
from pytest_finetune.answering.runtimes.constrained import trouble_with
from pytest_finetune.data.contract import Contract
from pytest_finetune.experiment import Experiment, load_experiment
from pytest_finetune.suite.steps.grammars import grammar_of

EXAMPLE = Path(__file__).parents[2] / "example_project"


def contract(folder: Path, text: str) -> Contract:
    (folder / "contract.yaml").write_text(f"task: t\n{text}\n", encoding="utf-8")
    return Contract.load(folder, "contract.yaml")


def experiment(constrain: Any) -> Experiment:
    read = load_experiment(EXAMPLE, "finetune.yaml")
    return dataclasses.replace(read, generation=dataclasses.replace(read.generation, constrain=constrain))


@pytest.mark.parametrize(
    ("text", "grammar"),
    [
        ("output: {format: json, schema: {type: object}}", {"type": "object"}),
        ("labels: {values: ['yes', 'no']}", ["yes", "no"]),
        ("output: {format: json}\nlabels: {field: k, values: [a, b]}", None),
        ("output: {pattern: 'a+'}", None),
        ("labels: {min_per_label: 2}", None),
    ],
)
def test_a_contract_holds_answers_to_its_schema_or_to_its_text_labels(
    tmp_path: Path, text: str, grammar: object
) -> None:
    found = grammar_of(contract(tmp_path, text))
    assert (None if found is None else json.loads(found)) == grammar


@pytest.mark.parametrize(
    ("constrain", "by_default", "arm"),
    [(None, True, True), (None, False, False), ("contract", False, True), (False, False, False)],
)
def test_the_arm_is_an_opponent_where_it_is_planned(constrain: object, by_default: bool, arm: bool) -> None:
    plans = planned(experiment(constrain), constrained=by_default)
    assert (CONSTRAINED in plans) is arm
    assert all(not plan.generation.constrain for name, plan in plans.items() if name != CONSTRAINED)
    if arm:
        assert plans[CONSTRAINED].opponent
        assert plans[CONSTRAINED].generation.constrain == "contract"


def test_a_format_that_cannot_be_held_is_known_without_a_model() -> None:
    pytest.importorskip("llguidance")
    assert trouble_with('{"type": "object"}') == ""
    assert trouble_with('["it\'s \\"x\\"", "a/b\\n", "\\u00fc", "\\ud83d\\ude00"]') == ""
    assert "not" in trouble_with('{"properties": {"a": {"not": {"type": "string"}}}}')
