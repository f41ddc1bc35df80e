"""A held-out conversation asked turn by turn: a case for each answer, one group for all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_finetune.data.rows import Rows, read_rows
from pytest_finetune.data.turn_by_turn import turn_by_turn


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def read(folder: Path, *rows: dict[str, Any]) -> Rows:
    (folder / "check.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_rows(folder, "check.jsonl", "eval")


def test_each_answer_is_a_case_with_the_expected_ones_before_it(tmp_path: Path) -> None:
    talk = [
        said("assistant", "Hello."), said("user", "a?"), said("assistant", "A"), said("user", "b?"),
        said("assistant", "no", weight=0), said("user", "c?"), said("assistant", "C"),
    ]  # fmt: skip
    rows = read(tmp_path, {"messages": talk, "id": "t"}, {"messages": talk[1:3], "id": "u", "group": "ada"})
    cases = turn_by_turn(rows)
    assert [(case.id, case.group, case.expected) for case in cases] == [
        ("t#2", "t", "A"), ("t#4", "t", "C"), ("u", "ada", "A"),
    ]  # fmt: skip
    assert cases[0].messages == tuple(talk[:3])
    assert cases[1].input == "Assistant: Hello.\nUser: a?\nAssistant: A\nUser: b?\nAssistant: no\nUser: c?"
    assert (cases.sha256, cases.path, cases[0].line) == (rows.sha256, rows.path, 1)
    assert len({case.digest for case in cases}) == 3


def test_a_row_without_messages_is_asked_as_it_stands(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"instruction": "i", "input": "a", "expected": "b"})
    (case,) = turn_by_turn(Rows([row], path="check.jsonl", split="eval"))
    assert (case.id, case.digest, case.group) == (row.id, row.digest, row.id)
