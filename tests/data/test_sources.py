"""The formats and shapes of rows that people have: each is read to the same rows, or refused with what to do."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from pytest_finetune.data.contract import Contract
from pytest_finetune.data.rows import Rows, read_rows

ROWS: list[dict[str, Any]] = [
    {"instruction": "Classify.", "input": "The card\nis stuck, twice", "output": '{"p": "high"}'},
    {"instruction": "Classify.", "input": 'He said "no"; nothing', "output": "low"},
]


def read(root: Path, name: str, content: bytes, **settings: Any) -> Rows:
    (root / name).write_bytes(content)
    return read_rows(root, name, "train", **settings)


def said(rows: Rows) -> list[tuple[str, str, str]]:
    return [(row.instruction, row.input, row.output) for row in rows]


def csv_of(separator: str, end: str = "\n") -> bytes:
    lines = [separator.join(ROWS[0])]
    lines += [separator.join('"' + value.replace('"', '""') + '"' for value in row.values()) for row in ROWS]
    return (end.join(lines) + end).encode()


FORMATS = {
    "rows.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "rows.json": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2).encode(),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).encode(),
    "rows.csv": csv_of(","),
    "windows.csv": b"\xef\xbb\xbf" + csv_of(",", "\r\n"),
    "german.csv": csv_of(";"),
    "excel.csv": b"\xef\xbb\xbfsep=;\r\n" + csv_of(";", "\r\n"),
    "empty_columns.csv": csv_of(",").replace(b"output\n", b"output,,\n").replace(b'"\n', b'",,\n'),
    "rows.tsv": csv_of("\t"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_read_to_the_same_rows_with_no_defect(tmp_path: Path, name: str) -> None:
    rows = read(tmp_path, name, FORMATS[name])
    assert (said(rows), rows.defects) == ([tuple(row.values()) for row in ROWS], ())
    assert [row.digest for row in rows] == [
        row.digest for row in read(tmp_path, "a.jsonl", FORMATS["rows.jsonl"])
    ]


def test_parquet_is_read_and_its_empty_cells_are_absent(tmp_path: Path) -> None:
    parquet.write_table(
        pyarrow.Table.from_pylist([*ROWS, {"instruction": "I", "output": "x"}]), tmp_path / "r.parquet"
    )
    rows = read_rows(tmp_path, "r.parquet", "train")
    assert said(rows) == [*(tuple(row.values()) for row in ROWS), ("I", "", "x")]
    assert [row.place for row in rows] == ["r.parquet:1", "r.parquet:2", "r.parquet:3"]


def test_a_row_of_a_table_or_a_list_stands_on_the_line_where_it_begins(tmp_path: Path) -> None:
    assert [row.line for row in read(tmp_path, "r.csv", FORMATS["rows.csv"])] == [2, 4]
    assert [row.line for row in read(tmp_path, "r.json", FORMATS["pretty.json"])] == [2, 7]


SHAPES: dict[str, tuple[dict[str, Any], tuple[str, str, str], int]] = {
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
        ("", "hi", "ho"),
        2,
    ),
    "sharegpt with a system": (
        {"system": "S", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
        ("S", "hi", "ho"),
        3,
    ),
    "messages called conversations": (
        {"conversations": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
        ("", "hi", "ho"),
        2,
    ),
    "question and answer": ({"question": "hi", "answer": "ho"}, ("", "hi", "ho"), 0),
    "question, held out": ({"question": "hi", "expected": "ho"}, ("", "hi", "ho"), 0),
    "text and label": ({"text": "hi", "label": "ho"}, ("", "hi", "ho"), 0),
    "input and output": ({"input": "hi", "output": "ho", "source": "mail"}, ("", "hi", "ho"), 0),
    "input and output, held out": ({"input": "hi", "expected": "ho"}, ("", "hi", "ho"), 0),
    "input and output after a system": (
        {"system": "S", "input": "hi", "output": "ho"},
        ("S", "hi", "ho"),
        3,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_is_read_to_question_and_answer(tmp_path: Path, name: str) -> None:
    row, content, messages = SHAPES[name]
    rows = read(tmp_path, "r.jsonl", json.dumps(row).encode() + b"\n")
    assert (said(rows), rows.defects) == ([content], ())
    assert len(rows[0].messages or ()) == messages


def test_columns_are_read_under_the_names_that_the_experiment_gives_them(tmp_path: Path) -> None:
    content = b"body,category,instruction,id\nhello,greeting,an internal note,7\n"
    rows = read(
        tmp_path,
        "r.csv",
        content,
        columns={"prompt": "body", "completion": "category", "instruction": "rule"},
    )
    assert [(row.input, row.output, row.id) for row in rows] == [("hello", "greeting", "7")]


@pytest.mark.parametrize("theirs", ["instructions", "intruction", "Instruction", "instruct"])
def test_an_instruction_under_another_name_is_not_taken_for_a_row_without_one(
    tmp_path: Path, theirs: str
) -> None:
    content = json.dumps({theirs: "Classify.", "input": "hi", "output": "ho"}).encode() + b"\n"
    (found,) = read(tmp_path, "r.jsonl", content).defects
    assert found.read == f"no instruction, but a key {theirs!r}: did you mean 'instruction'?"
    assert f"`paths: {{columns: {{instruction: {theirs}}}}}`" in found.fix
    rows = read(tmp_path, "r.jsonl", content, columns={"instruction": theirs})
    assert (said(rows), rows.defects) == ([("Classify.", "hi", "ho")], ())


def test_a_table_without_a_head_is_asked_about_it_and_counts_of_what_is_unread_are_not_told(
    tmp_path: Path,
) -> None:
    long = "my parcel never came to the house on the hill"
    rows = read(tmp_path, "r.csv", f"{long},refund\n{long} again,refund\n".encode())
    assert rows.defects[0].read.endswith(": is the first line a row, and not the names?")
    (tmp_path / "c.yaml").write_text("rows: {min_train: 9}\nlabels: {values: [a], min_per_label: 2}\n")
    held_out = read(tmp_path, "e.jsonl", b'{"text": "hi", "label": "a"}\n{"text": "ho", "label": "a"}\n')
    found = Contract.load(tmp_path, "c.yaml").findings(rows, held_out)
    assert [one.rule for one in found] == ["data/row-shape"]


def test_rows_without_an_instruction_beside_rows_with_one_are_mixed_shapes(tmp_path: Path) -> None:
    rows = [*ROWS, {"input": "hi", "output": "ho"}]
    (found,) = read(tmp_path, "r.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()).defects
    assert (found.rule, found.line) == ("data/mixed-shapes", 3)
    mapped = read(
        tmp_path, "r.csv", b"body,category\nhi,ho\n", columns={"input": "body", "output": "category"}
    )
    assert (said(mapped), mapped.defects) == ([("", "hi", "ho")], ())


def test_a_column_that_the_file_does_not_have_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    content = b"body,category\nhello,greeting\n"
    (found,) = read(tmp_path, "r.csv", content, columns={"prompt": "Body", "completion": "category"}).defects
    absent = "columns takes prompt from 'Body', which is not there; did you mean 'body'?"
    assert found.read == f"{absent}; no instruction, messages or prompt; found the keys 'body', 'completion'"
    optional = {"prompt": "body", "completion": "category", "group": "customer"}
    assert not read(tmp_path, "r.csv", content, columns=optional).defects


def test_conversations_in_the_cells_of_a_table_are_json(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    table = 'messages,tags\n"' + json.dumps(messages).replace('"', '""') + '",\n'
    rows = read(tmp_path, "r.csv", table.encode())
    assert (said(rows), rows.defects) == ([("", "hi", "ho")], ())
    assert [one.rule for one in read(tmp_path, "b.csv", b"messages\nhello\n").defects] == [
        "data/invalid-json"
    ]


REFUSED: dict[str, tuple[str, bytes, str, int | None, str]] = {
    "UTF-16": ("r.jsonl", FORMATS["rows.jsonl"].decode().encode("utf-16"), "data/utf-16", None, "iconv"),
    "UTF-16 without a mark": (
        "r.csv",
        FORMATS["rows.csv"].decode().encode("utf-16-le"),
        "data/utf-16",
        None,
        "iconv",
    ),
    "CR only": ("r.csv", b"a,b\rc,d\r", "data/cr-only", None, "tr"),
    "UTF-16, the other way round": (
        "r.csv",
        FORMATS["rows.csv"].decode().encode("utf-16-be"),
        "data/utf-16",
        None,
        "iconv",
    ),
    "CR only, in long lines": ("r.jsonl", b"x" * 9000 + b"\r" + b"y" * 9000, "data/cr-only", None, "tr"),
    "a picture beside the row": (
        "r.jsonl",
        b'{"image": "a.png", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}\n',
        "data/row-shape",
        1,
        "Leave pictures",
    ),
    "a picture in a message": (
        "r.jsonl",
        b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}, {"role": "assistant", "content": "a"}]}\n',
        "data/row-shape",
        1,
        "Leave pictures",
    ),
    "a workbook": ("r.csv", b"PK\x03\x04" + bytes(50), "data/unknown-format", None, "CSV"),
    "a pickle": ("r.jsonl", b"\x80\x04\x95" + bytes(50), "data/unknown-format", None, "never opened"),
    "an object around the list": ("r.json", b'{\n"data": [{"a": 1}]}', "data/unknown-format", 1, "jq .data"),
    "pretty objects": ("r.jsonl", b'{\n"a": 1\n}\n{\n"a": 2\n}\n', "data/unknown-format", 1, "jq -c"),
    "a list that was cut": ("r.json", FORMATS["pretty.json"][:-9], "data/invalid-json", 7, "element"),
    "a list without an end": ("r.json", FORMATS["rows.json"][:-1], "data/truncated-line", 1, "no end"),
    "two columns of one name": ("r.csv", b"a,a\n1,2\n", "data/table", 1, "'a', 'a'"),
    "a row with too many cells": ("r.csv", b"text,label\nhello, you,greeting\n", "data/table", 2, "3 cells"),
    "a number for a label": ("r.jsonl", b'{"text": "hi", "label": 3}\n', "data/row-shape", 1, "its number"),
    "a preference pair": (
        "r.jsonl",
        b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n',
        "data/row-shape",
        1,
        "DPO",
    ),
    "an index without a name": ("r.csv", b",text,label\n0,hi,a\n", "data/table", 1, "'', 'text', 'label'"),
    "a quote without its end": (
        "r.csv",
        b'text,label\n"hi\nthere,a\nho,b\n',
        "data/table",
        2,
        "a quote that opens here is not closed (separator ','), so that 3 lines from here on cannot be read",
    ),
    "a row that is too long": (
        "r.csv",
        b"text,label\n" + b"word " * 300_000 + b",a\n",
        "data/long-line",
        2,
        "1500001 bytes (limit 1048576)",
    ),
    "a comma before the end of a row": (
        "r.jsonl",
        b'{"a": 1,}\n',
        "data/invalid-json",
        1,
        "before the closing br",
    ),
    "a comma after a row": ("r.jsonl", b'{"a": 1},\n', "data/invalid-json", 1, "comma after the row"),
    "a row as Python prints it": ("r.jsonl", b"{'a': 1}\n", "data/invalid-json", 1, "json.dumps"),
    "Python's None": ("r.jsonl", b'{"a": None}\n', "data/invalid-json", 1, "json.dumps"),
    "typographic quotes": (
        "r.jsonl",
        "{\u201ca\u201d: 1}\n".encode(),
        "data/invalid-json",
        1,
        "straight quotes",
    ),
    "a comment": ("r.jsonl", b"// mine\n", "data/invalid-json", 1, "Take out the comment"),
    "a table by another name": ("r.txt", b"text\tlabel\n", "data/invalid-json", 1, "ends in .csv or .tsv"),
    "a number for a completion": (
        "r.jsonl",
        b'{"prompt": "hi", "completion": 3}\n',
        "data/row-shape",
        1,
        'Write it in quotes, as "3"',
    ),
    "null for an answer": (
        "r.jsonl",
        b'{"instruction": "hi", "output": null}\n',
        "data/row-shape",
        1,
        "of null",
    ),
    "no UTF-8": ("r.csv", b"text,label\nh\xe9,x\n", "data/invalid-utf8", 2, "position 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_one_finding_that_says_what_to_do(tmp_path: Path, name: str) -> None:
    file, content, rule, line, told = REFUSED[name]
    defects = read(tmp_path, file, content).defects
    assert [(found.rule, found.line) for found in defects] == [(rule, line)]
    assert told in defects[0].read + defects[0].fix


def test_a_cell_may_be_as_long_as_a_row_and_what_follows_it_is_read(tmp_path: Path) -> None:
    rows = read(tmp_path, "r.csv", b"text,label\n" + b"word " * 40_000 + b",a\nhi,b\n")
    assert ([len(row.input) for row in rows], rows.defects) == ([200_000, 2], ())


def test_a_parquet_value_that_json_cannot_hold_is_named(tmp_path: Path) -> None:
    row = {"text": "hi", "label": datetime.date(2026, 1, 2)}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "r.parquet")
    (found,) = read_rows(tmp_path, "r.parquet", "train").defects
    assert (found.rule, found.line) == ("data/row-shape", 1)
    assert "'label' holds a value of type date" in found.read
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "r.parquet").read_bytes()[:100])
    assert [one.rule for one in read_rows(tmp_path, "cut.parquet", "train").defects] == [
        "data/damaged-archive"
    ]
