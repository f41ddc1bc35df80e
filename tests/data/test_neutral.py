"""Neutral prompts: the set that ships, a file of one's own, and answers that look like the task's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.data.contract import Contract
from pytest_finetune.data.formatting import format_prompt
from pytest_finetune.data.neutral import PromptsError, asks_as_written, neutral_rows
from pytest_finetune.data.rows import Rows
from pytest_finetune.data.task_format import CONTRACT, OUTPUTS, task_format
from pytest_finetune.experiment import DEFAULT_TEMPLATE, Prompt

LABELS = """\
task: priority
version: 1
labels: {field: null, values: [high, low]}
"""
JSON = """\
task: priority
version: 1
output: {format: json, schema: {type: object, required: [priority], properties: {priority: {enum: [high, low]}}}}
"""


def prompts(folder: Path, *lines: object) -> Rows:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "own.jsonl").write_text(text, encoding="utf-8")
    return neutral_rows(folder, "own.jsonl")


def test_forty_different_prompts_of_many_kinds_ship(tmp_path: Path) -> None:
    rows = neutral_rows(tmp_path)
    assert len(rows) == 40
    assert len({row.id for row in rows}) == len({row.input for row in rows}) == 40
    kinds = {row.id.rpartition("-")[0] for row in rows}
    assert len(kinds) == 9
    assert all(row.instruction and row.input and row.output == "" for row in rows)
    assert len(rows.sha256) == 64


def test_shipped_prompts_are_asked_like_the_rows_of_the_experiment(tmp_path: Path) -> None:
    row = neutral_rows(tmp_path)[0]
    assert format_prompt(row, Prompt(template=DEFAULT_TEMPLATE)) == (
        "Instruction: Answer the question.\nInput: Which planet is the third from the sun?\nAnswer:"
    )
    assert format_prompt(row, Prompt(template="chat")) == [
        {"role": "user", "content": "Answer the question.\n\nWhich planet is the third from the sun?"}
    ]


@pytest.mark.parametrize(
    ("template", "asked"),
    [(DEFAULT_TEMPLATE, True), ("chat", True), ("{instruction}", True), ("Classify: {input} ->", False)],
)
def test_a_template_with_a_fixed_instruction_always_asks_the_task(template: str, asked: bool) -> None:
    assert asks_as_written(template) is asked


def test_prompts_of_ones_own_have_the_shapes_of_rows_and_need_no_answer(tmp_path: Path) -> None:
    rows = prompts(
        tmp_path,
        {"id": "a", "instruction": "Say hello.", "input": "Ann"},
        {"instruction": "Say hello.", "input": "Bob", "expected": "Hello Bob"},
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]},
        {"prompt": "Once upon a time"},
        {"prompt": [{"role": "user", "content": "Hi there"}]},
    )
    chat = [format_prompt(row, Prompt(template="chat")) for row in rows]
    assert rows[0].id == "a"
    assert chat[1] == [{"role": "user", "content": "Say hello.\n\nBob"}]
    assert chat[2] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert chat[3] == [{"role": "user", "content": "Once upon a time"}]
    assert chat[4] == [{"role": "user", "content": "Hi there"}]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"instruction": '], "own.jsonl:1: "),
        ([[1]], "own.jsonl:1: a prompt is an object with instruction and input, messages or prompt"),
        ([{"instructions": "x"}], "own.jsonl:1: no instruction, messages or prompt; found the keys"),
        (
            [{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}],
            "own.jsonl:2: the id 'a' stands on line 1",
        ),
        ([""], "own.jsonl:1: a line without a row"),
        ([], "own.jsonl: 0 bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_line(
    tmp_path: Path, lines: list[Any], said: str
) -> None:
    with pytest.raises(PromptsError) as caught:
        prompts(tmp_path, *lines)
    assert str(caught.value).startswith(said)


def contract(folder: Path, text: str) -> Contract:
    (folder / "contract.yaml").write_text(text, encoding="utf-8")
    return Contract.load(folder, "contract.yaml")


def test_the_contract_tells_the_tasks_format(tmp_path: Path) -> None:
    shape = task_format(contract(tmp_path, JSON), [])
    assert shape.told_by == CONTRACT
    assert shape.fits(' {"priority": "low"}\n')
    assert not shape.fits('{"priority": "none"}')
    assert not shape.fits("low")


def test_a_closed_set_of_labels_is_a_format(tmp_path: Path) -> None:
    shape = task_format(contract(tmp_path, LABELS), [])
    assert shape.told_by == CONTRACT
    assert [shape.fits(text) for text in (" high", "low", "medium", "high and low")] == [
        True,
        True,
        False,
        False,
    ]


def test_where_any_json_will_do_a_bare_number_is_no_sign_of_the_task(tmp_path: Path) -> None:
    shape = task_format(contract(tmp_path, "task: t\nversion: 1\noutput: {format: json}\n"), [])
    assert shape.fits('{"any": 1}')
    assert not shape.fits("43")


def test_without_a_format_in_the_contract_the_training_outputs_tell_it() -> None:
    shape = task_format(Contract.default(), ['{"label": "high", "why": "x"}', "not  today"])
    assert shape.told_by == OUTPUTS
    assert shape.fits(' {"why": "another", "label": "low"}')
    assert shape.fits("not today ")
    assert not shape.fits('{"label": "low"}')
    assert not shape.fits("today")
