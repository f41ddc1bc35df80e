"""The opponents that know nothing of the question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_finetune.data.contract import Contract
from pytest_finetune.data.rows import Row
from pytest_finetune.data.trivial import COPY, MAJORITY, trivial_opponent

ANY = Contract.default()


def rows(*outputs: str) -> list[Row]:
    return [
        Row("train.jsonl", line, 0, "instruction", "Do it.", f"question {line}", output, None, (), None, {})
        for line, output in enumerate(outputs, 1)
    ]


def contract(folder: Path, text: str) -> Contract:
    (folder / "contract.yaml").write_text(text, encoding="utf-8")
    return Contract.load(folder, "contract.yaml")


def test_the_commonest_label_is_said_in_the_tasks_own_format() -> None:
    outputs = [f'{{"priority": "{label}", "reason": "because {n}"}}' for n, label in enumerate("aab" * 4)]
    found = trivial_opponent(ANY, rows(*outputs))
    assert found is not None
    assert found.name == MAJORITY
    said = json.loads(found.answer(rows("x")[0]))
    assert said["priority"] == "a"
    assert set(said) == {"priority", "reason"}
    assert "commonest of 12 training answers" in found.described


def test_every_place_that_holds_labels_says_its_own_commonest_value() -> None:
    outputs = [
        json.dumps({"a": {"x": x, "y": y}, "n": n})
        for x, y, n in [("p", 1, 7), ("p", 2, 7), ("q", 2, 7), ("p", 1, 8), ("q", 2, 8), ("p", 2, 7)]
    ]
    found = trivial_opponent(ANY, rows(*outputs))
    assert found is not None
    assert json.loads(found.answer(rows("x")[0])) == {"a": {"x": "p", "y": 2}, "n": 7}


def test_an_answer_that_the_contract_forbids_is_never_composed(tmp_path: Path) -> None:
    both = contract(
        tmp_path,
        "task: t\noutput: {format: json, schema: {not: {required: [k, v], properties: {k: {const: 1}, v: {const: 2}}}}}\n",
    )
    pairs = [(1, 1)] * 4 + [(3, 2)] * 3 + [(4, 2)] * 3
    found = trivial_opponent(both, rows(*(json.dumps({"k": k, "v": v}) for k, v in pairs)))
    assert found is not None
    assert both.problems_of(found.answer(rows("x")[0])) == []


def test_text_labels_need_no_contract_when_they_repeat() -> None:
    found = trivial_opponent(ANY, rows(*["yes"] * 5, *["no"] * 4))
    assert found is not None
    assert found.answer(rows("x")[0]) == "yes"


def test_declared_text_labels_are_closed_however_few_rows_there_are(tmp_path: Path) -> None:
    declared = contract(tmp_path, "task: t\nlabels: {values: [yes, no]}\n")
    found = trivial_opponent(declared, rows("no", "yes", "no"))
    assert found is not None
    assert found.answer(rows("x")[0]) == found.says == "no"


@pytest.mark.parametrize(
    "how",
    [
        "output: {format: json}\nlabels: {field: k}",
        "output: {format: json, schema: {properties: {k: {enum: [a, b, c]}}}}",
    ],
)
def test_a_declared_field_is_closed_however_few_rows_there_are(tmp_path: Path, how: str) -> None:
    declared = contract(tmp_path, f"task: t\n{how}\n")
    found = trivial_opponent(declared, rows('{"k": "a"}', '{"k": "b"}', '{"k": "b"}', '{"k": "c"}'))
    assert found is not None
    assert json.loads(found.answer(rows("x")[0])) == {"k": "b"}
    assert found.says == ("b" if "labels" in how else '{"k": "b"}')


def test_free_text_is_opposed_by_the_question_itself() -> None:
    training = rows(*(f"a long answer about {n}" for n in range(9)))
    found = trivial_opponent(ANY, training)
    assert found is not None
    assert (found.name, found.answer(training[3])) == (COPY, "question 4")


@pytest.mark.parametrize("outputs", [(), ('{"a": 1}', '{"a": 2}', '{"a": 3}')])
def test_where_no_trivial_answer_could_pass_there_is_no_opponent(outputs: tuple[str, ...]) -> None:
    assert trivial_opponent(ANY, rows(*outputs)) is None


def test_one_value_everywhere_is_no_label() -> None:
    assert trivial_opponent(ANY, rows(*(f'{{"kind": "ticket", "id": {n}}}' for n in range(9)))) is None
