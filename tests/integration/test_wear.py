"""Held-out rows wear out: looks follow the rows, not the file, and a judged row that is trained on is found."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from .conftest import Project


def rows_of(project: Project, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.path / name).read_text(encoding="utf-8").splitlines()]


def write_rows(project: Project, name: str, rows: Sequence[dict[str, Any]]) -> None:
    project.write({name: "".join(json.dumps(row) + "\n" for row in rows)})


def judge_from(project: Project, name: str) -> None:
    """Let the experiment judge on another file."""
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text().replace("eval.jsonl", name), encoding="utf-8")


def train_on(project: Project, row: dict[str, Any]) -> None:
    """Add a held-out row to the training rows."""
    own = {"instruction": row["instruction"], "input": row["input"], "output": row["expected"]}
    write_rows(project, "train.jsonl", [*rows_of(project, "train.jsonl"), own])


def findings(project: Project, rule: str) -> list[dict[str, Any]]:
    return [one for one in project.experiment()["data"]["findings"] if one["rule"] == rule]


def looks(project: Project) -> int:
    project.run("--finetune")
    k: int = project.experiment()["decision"]["looks"]
    return k


def test_a_file_that_is_renamed_split_or_grown_is_no_fresh_file(project: Project) -> None:
    rows = rows_of(project, "eval.jsonl")
    write_rows(project, "eval.jsonl", rows[:60])
    assert looks(project) == 1
    judge_from(project, "other-name.jsonl")
    write_rows(project, "other-name.jsonl", [{**row, "tags": ["seen"]} for row in rows[:60]])
    assert looks(project) == 1
    write_rows(project, "other-name.jsonl", rows[:30])
    assert looks(project) == 2
    write_rows(project, "other-name.jsonl", rows[30:60])
    assert looks(project) == 2  # of the looks before, only the first saw these
    write_rows(project, "other-name.jsonl", rows)
    assert looks(project) == 4
    write_rows(project, "other-name.jsonl", [{**row, "input": row["input"].upper() + " "} for row in rows])
    assert looks(project) == 5  # retouched rows ask the same


def test_a_judged_row_that_is_trained_on_is_found_though_the_file_was_renamed(project: Project) -> None:
    project.run("--finetune")
    rows = rows_of(project, "eval.jsonl")
    judge_from(project, "other-name.jsonl")
    write_rows(project, "other-name.jsonl", rows[1:])
    train_on(project, rows[0])
    project.calls()
    result = project.run("--finetune")
    assert result.ret == 1
    assert project.calls() == []
    (found,) = findings(project, "leak/judged")
    assert (found["severity"], found["file"], found["line"]) == ("error", "train.jsonl", 41)
    assert re.fullmatch(
        r"look 1 of experiment 'finetune' on \d{4}-\d\d-\d\d \d\d:\d\d UTC judged this row, "
        r"with 79 of the 79 rows held out now",
        found["read"],
    )
    assert found["fix"] == "Take the row out of training, or judge on fresh held-out rows."
    assert project.experiment()["gate"]["stage"] == "data"
    result.stdout.re_match_lines([r".*train.jsonl:41: look 1 of experiment 'finetune' on .* judged this row"])


def test_the_same_row_with_another_answer_is_another_row(project: Project) -> None:
    project.run("--finetune")
    rows = rows_of(project, "eval.jsonl")
    write_rows(project, "eval.jsonl", rows[1:])
    train_on(project, {**rows[0], "expected": rows[1]["expected"]})
    assert project.run("--finetune").ret == 0
    assert project.experiment()["data"]["findings"] == []


def test_a_row_that_is_still_held_out_is_told_as_the_leak_that_it_is(project: Project) -> None:
    project.run("--finetune")
    train_on(project, rows_of(project, "eval.jsonl")[0])
    assert project.run("--finetune").ret == 1
    assert [one["rule"] for one in project.experiment()["data"]["findings"]] == ["leak/exact"]


def test_of_several_looks_the_one_speaks_that_judged_most_of_todays_rows(project: Project) -> None:
    rows = rows_of(project, "eval.jsonl")
    assert looks(project) == 1
    write_rows(project, "eval.jsonl", rows[:70])
    assert looks(project) == 2
    write_rows(project, "eval.jsonl", rows[1:])
    train_on(project, rows[0])
    result = project.run()  # it needs no model
    assert result.ret == 1
    result.stdout.re_match_lines(
        [
            r"  train.jsonl:41: look 1 of .* UTC \(one of 2 at it\) judged this row, with 79 of the 79 rows held out now"
        ]
    )


def test_a_retired_held_out_file_warns_and_a_waiver_accepts_it_on_every_machine(project: Project) -> None:
    rows = rows_of(project, "eval.jsonl")
    write_rows(project, "eval.jsonl", rows[:40])
    project.run("--finetune")
    write_rows(project, "eval.jsonl", rows[40:])
    train_on(project, rows[0])
    assert project.run("--finetune").ret == 1
    (found,) = project.experiment()["data"]["findings"]
    assert (found["rule"], found["severity"]) == ("leak/was-held-out", "warning")
    assert found["read"].endswith("judged this row, with 0 of the 40 rows held out now")
    assert "train" in project.calls()  # the fresh rows judge it; only the data test fails
    waiver = "waivers:\n  - {rule: leak/was-held-out, file: train.jsonl, reason: the old held-out file is retired}\n"
    project.write({"contract.yaml": f"task: priority\nversion: 1\noutput: {{format: json}}\n{waiver}"})
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text().replace("paths: {", "paths: {contract_file: contract.yaml, "))
    assert project.run("--finetune").ret == 0
    (waived,) = project.experiment()["data"]["waived"]
    assert waived["waiver"]["reason"] == "the old held-out file is retired"
    assert (
        project.run("test_data.py", "--finetune-store=elsewhere").ret == 0
    )  # no look, and no waiver left over
