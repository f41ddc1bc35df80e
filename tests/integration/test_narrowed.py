"""Runs of single tests: what they bring along, and what they cannot have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project


@pytest.mark.parametrize(
    "args",
    [
        ("test_decision.py",),
        ("test_decision.py::test_keep",),
        ("-k", "test_keep"),
        ("-m", "decision_rule"),
    ],
)
def test_a_decision_asked_for_alone_brings_its_rules(project: Project, args: tuple[str, ...]) -> None:
    result = project.run("--finetune", *args)
    result.assert_outcomes(passed=3, deselected=1)
    assert project.experiment()["decision"]["verdict"] == "keep"
    assert any("narrowed run" in note for note in project.record()["notes"])


def test_a_run_that_is_not_whole_leaves_the_record_of_the_whole_one(project: Project) -> None:
    project.run("--finetune")
    whole = (project.path / "finetune-record" / "record.json").read_bytes()
    result = project.run("--finetune", "-k", "test_keep")
    result.stdout.fnmatch_lines(
        [
            "record: finetune-record/partial/report.html",
            "no whole run: it was narrowed; the record of the last whole one stays beside it",
        ]
    )
    assert (project.path / "finetune-record" / "record.json").read_bytes() == whole
    beside = project.path / "finetune-record" / "partial"
    assert any("narrowed" in note for note in json.loads((beside / "record.json").read_text())["notes"])
    assert (beside / "report.html").is_file()
    assert (beside / "outputs" / "tuned.jsonl").is_file()


def test_a_test_id_given_twice_runs_once(project: Project) -> None:
    project.run("--finetune")
    result = project.run("--finetune", "test_decision.py", "test_rules.py::test_label")
    result.assert_outcomes(passed=3)


def test_foreign_tests_asked_for_alone_bring_nothing(project: Project) -> None:
    project.write({"test_other.py": "def test_plain(): pass\n"})
    project.run("--finetune", "test_other.py").assert_outcomes(passed=1, deselected=4)
    assert project.calls() == []


def test_rules_left_out_by_last_failed_leave_the_decision_undecided(project: Project) -> None:
    project.says("tuned", 0)
    project.run("--finetune")
    project.write({"test_decision.py": "def test_keep(decision):\n    assert decision.keep, decision\n"})
    result = project.run("--finetune", "--lf", "test_decision.py")
    assert result.ret == 1
    decision = project.experiment()["decision"]
    assert decision["undecided"]
    assert not any(line.startswith("INTERNALERROR") for line in result.outlines)


def test_a_deselected_rule_leaves_the_decision_undecided(project: Project) -> None:
    result = project.run("--finetune", "--deselect", "test_rules.py::test_strict_json")
    assert result.ret == 1
    decision = project.experiment()["decision"]
    assert decision["undecided"]
    assert "strict_json" in decision["reasons"][0]


def test_a_comparison_whose_rule_was_not_run_says_so(project: Project) -> None:
    project.write({"test_compare.py": "def test_gain(tuned):\n    assert tuned['label'].rate > 0.5\n"})
    result = project.run("--finetune", "--deselect", "test_rules.py::test_label")
    result.stdout.fnmatch_lines(
        ["*tuned?'label'?: the rule was not run in this session, so it has no score*"]
    )
