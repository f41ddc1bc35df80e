"""Invariance rules in a session: asked once, stored, judged by the share of outcomes that stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.data.perturbed import perturbed_rows
from pytest_finetune.data.rows import read_rows

from .conftest import expected, row_id

if TYPE_CHECKING:
    from .conftest import Project

RULE = """
@pytest.mark.eval_rule(invariant_to=["case", "typo"], min_rate=0.9)
def test_steady(response, example):
    assert response.json()["label"] == example.expected_json()["label"]
"""


def perturbed_answers(project: Project, tuned_right: int) -> None:
    """Let the tuned arm answer rightly to the perturbed rows made from its first rows; the base says prose."""
    project.write({"test_rules.py": (project.path / "test_rules.py").read_text() + RULE})
    rows = perturbed_rows(read_rows(project.path, "eval.jsonl", "eval"), ["case", "typo"])
    for row in rows:
        number = int(row.id[1:4])
        project.answers["tuned"][row.id] = expected(number) if number < tuned_right else '{"label": "none"}'
        project.answers["baseline"][row.id] = "prose"
    project.save()


def test_outcomes_that_stay_pass_and_are_stored_like_other_answers(project: Project) -> None:
    perturbed_answers(project, 72)
    assert project.run("--finetune").ret == 0
    assert project.calls().count("answer tuned") == 2
    experiment = project.experiment()
    steady = experiment["arms"]["tuned"]["rules"]["steady"]
    assert steady["rate"] == 1.0
    assert steady["total"] == 160
    assert experiment["rules"]["steady"]["invariant_to"] == ["case", "typo"]
    assert "steady" not in {pair["rule"] for pair in experiment["comparisons"]}
    assert len(experiment["held_out"]) == 80
    assert not (project.path / "finetune-record" / "invariance").exists()
    project.run("--finetune")
    assert project.calls() == []


def test_outcomes_that_change_fail_and_become_candidates(project: Project) -> None:
    perturbed_answers(project, 60)
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*rule 'steady' does not hold*",
            "*min_rate: * rows keep their outcome when perturbed (8*); 0.9 needs *",
            "*eval.jsonl:61: case: 1, then 0: assert 'none' == 'critical'*",
        ]
    )
    assert project.experiment()["decision"]["verdict"] == "iterate"
    file: Path = project.path / "finetune-record" / "invariance" / "steady.jsonl"
    candidates = read_rows(file.parent, file.name, "eval")
    assert not candidates.defects
    first = candidates[0]
    assert (first.id, first.expected, first.group) == ("e060~case", expected(60), row_id(60))
    assert first.tags == ("perturbed: case",)
    assert {int(row.id[1:4]) for row in candidates} == set(range(60, 72))


def test_a_directional_rule_lets_an_outcome_rise(project: Project) -> None:
    perturbed_answers(project, 80)
    rules = (project.path / "test_rules.py").read_text()
    assert project.run("--finetune").ret == 0
    assert project.experiment()["arms"]["tuned"]["rules"]["steady"]["rate"] < 1
    project.write(
        {
            "test_rules.py": rules.replace(
                "min_rate=0.9)\ndef test_steady", 'direction="not lower", min_rate=1.0)\ndef test_steady'
            )
        }
    )
    assert project.run("--finetune").ret == 0
    assert project.experiment()["arms"]["tuned"]["rules"]["steady"]["rate"] == 1


def test_perturbed_rows_hang_on_content_alone(project: Project) -> None:
    rows = read_rows(project.path, "eval.jsonl", "eval")
    lines = (project.path / "eval.jsonl").read_text().splitlines()
    project.write({"other.jsonl": "".join(f"{line}\n" for line in reversed(lines))})
    again = perturbed_rows(read_rows(project.path, "other.jsonl", "eval"), ["numbers", "whitespace"])
    assert {row.id: row.input for row in again} == {
        row.id: row.input for row in perturbed_rows(rows, ["numbers", "whitespace"])
    }
    assert all(row.input != json.loads(lines[0])["input"] for row in again)
