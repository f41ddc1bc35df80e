"""Logs that lm-evaluation-harness and inspect_ai wrote are arms of a whole session, and a decision is made on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.data.rows import read_rows

from .conftest import Project
from .test_outside_arms import with_arms

LOGS = Path(__file__).parent / "logs"

RULES = """
import pytest

@pytest.mark.eval_rule(primary=True, min_gain=0.1)
def test_priority(response, example):
    assert response.json()["priority"] == example.expected_json()["priority"]

@pytest.mark.eval_rule
def test_names_the_priority(response, example):
    assert example.expected_json()["priority"] in response.text
"""
ARMS = """\
  harness: {answers: logs/samples_tickets.jsonl, format: lm_eval, must_beat: true, min_gain: 0}
  inspect: {answers: logs/tickets.eval, format: inspect, must_beat: true, min_gain: 0}
"""


@pytest.fixture
def logged(project: Project) -> Project:
    """A project on the rows that the tools were given; its base answers prose, its adapter rightly."""
    pytest.importorskip("zstandard", reason="inspect_ai compresses its logs with Zstandard")
    shutil.copytree(LOGS, project.path / "logs")
    shutil.copy(LOGS / "rows.jsonl", project.path / "eval.jsonl")
    project.write({"test_rules.py": RULES})
    rows = read_rows(project.path, "eval.jsonl", "eval")
    project.answers["baseline"] = {row.id: "prose" for row in rows}
    project.answers["tuned"] = {row.id: row.expected for row in rows}
    project.save()
    with_arms(project, ARMS)
    return project


def harness_said() -> list[tuple[dict[str, Any], str]]:
    """Read document and answer from the harness's file, past our reader."""
    lines = map(json.loads, (LOGS / "samples_tickets.jsonl").read_text(encoding="utf-8").splitlines())
    return [(line["doc"], line["resps"][0][0]) for line in lines]


def test_an_adapter_is_kept_when_it_beats_what_the_tools_logged(logged: Project) -> None:
    result = logged.run("--finetune")
    assert result.ret == 0
    record = logged.experiment()
    assert record["decision"]["verdict"] == "keep"
    for arm in ("harness", "inspect"):
        assert any(f"over arm {arm!r} is demonstrated" in said for said in record["decision"]["reasons"])
    named = sum(json.loads(doc["expected"])["priority"] in said for doc, said in harness_said())
    assert 0 < named < 10
    rules = {arm: record["arms"][arm]["rules"] for arm in ("harness", "inspect")}
    assert rules["harness"]["names_the_priority"]["passed"] == named
    assert rules["harness"]["names_the_priority"]["total"] == 10
    assert rules["harness"]["priority"]["passed"] == 0  # it answers in prose
    assert rules["inspect"]["priority"]["passed"] == 0
    formats = {arm: (record["arms"][arm]["format"], record["arms"][arm]["model"]) for arm in rules}
    assert formats == {"harness": ("lm_eval", "answers"), "inspect": ("inspect", "answers")}
    pairs = {(one["rule"], one["arm"], one["against"]) for one in record["pairs"]}
    assert {("names_the_priority", "harness", "baseline"), ("priority", "inspect", "harness")} <= pairs
    shown = [
        json.loads(line)["response"]
        for line in (logged.path / "finetune-record" / "outputs" / "harness.jsonl").read_text().splitlines()
    ]
    assert shown == [said for _, said in harness_said()]


def test_an_adapter_that_says_what_the_harness_logged_is_not_kept(logged: Project) -> None:
    rows = read_rows(logged.path, "eval.jsonl", "eval")
    said = {doc["input"]: answer for doc, answer in harness_said()}
    logged.answers["tuned"] = {row.id: said[row.input] for row in rows}
    logged.save()
    result = logged.run("--finetune")
    assert result.ret == 1
    decision = logged.experiment()["decision"]
    assert decision["verdict"] == "iterate"
    assert not decision["undecided"]
    assert any("over arm 'harness' is not demonstrated" in reason for reason in decision["reasons"])


def test_documents_that_a_task_shuffled_are_matched_by_their_questions(logged: Project) -> None:
    """The place of a document in the task's own order names no row of the held-out file."""
    file = logged.path / "logs" / "samples_tickets.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for at, line in enumerate(lines):
        line["doc_id"] = (at + 3) % len(lines)
        line["doc"] = {"ticket": line["doc"]["input"]}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert logged.run("--finetune").ret == 0
    record = logged.record()
    assert record["experiments"][0]["arms"]["harness"]["joined_by"] == "question"
    assert [note for note in record["notes"] if "matched by their questions" in note] == [
        "arm 'harness': the answers of logs/samples_tickets.jsonl stand in another order than their ids say, and were "
        "matched by their questions"
    ]
    shown = (logged.path / "finetune-record" / "outputs" / "harness.jsonl").read_text().splitlines()
    assert [json.loads(line)["response"] for line in shown] == [line["resps"][0][0] for line in lines]


def test_documents_under_the_ids_of_other_rows_stop_before_the_training(logged: Project) -> None:
    file = logged.path / "logs" / "samples_tickets.jsonl"
    rows = [row.id for row in read_rows(logged.path, "eval.jsonl", "eval")]
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for line, other in zip(lines, [*rows[1:], rows[0]], strict=True):
        line["doc"]["id"] = other
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    result = logged.run("--finetune")
    assert result.ret == 1
    assert "train" not in logged.calls()
    result.stdout.re_match_lines(
        [
            r".*samples_tickets.jsonl: 10 of 10 answers, matched by id, are to another question",
            r".*row \w+ \(eval.jsonl:1\) asks 'Payments are dead\. ",
            r".*logs/samples_tickets.jsonl:10 shows 'Instruction: Classify",
            r".*the ids are shifted; write the rows' own ids into the file",
        ]
    )


def test_a_log_of_other_rows_stops_before_the_training(logged: Project) -> None:
    file = logged.path / "eval.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text(
        "".join([*lines[:9], lines[9].replace('"input": "', '"input": "Hello. ')]), encoding="utf-8"
    )
    result = logged.run("--finetune")
    assert result.ret == 1
    assert "train" not in logged.calls()
    result.stdout.re_match_lines(
        [
            r".*logs/samples_tickets.jsonl: 10 answers, matched by input text, are not one for each of the 10 rows",
            r".*1 belong to no held-out row: logs/samples_tickets.jsonl:10",
        ]
    )
