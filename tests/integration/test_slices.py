"""A sliced rule in a session: what fails, what the record and the terminal say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .conftest import expected, row_id

if TYPE_CHECKING:
    from .conftest import Project

SLICED = """\
import pytest

@pytest.mark.eval_rule(primary=True, min_gain=0.1, slice="tags", protected=["negative"])
def test_label(response, example):
    assert response.json()["label"] == example.expected_json()["label"]
"""


def tag(project: Project, upto: int) -> None:
    """Tag the first rows as negative and let the base answer them rightly."""
    lines = [json.loads(line) for line in (project.path / "eval.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line["tags"] = ["negative"] if number < upto else ["plain"]
    project.write({"eval.jsonl": "".join(json.dumps(line) + "\n" for line in lines), "test_rules.py": SLICED})


def test_a_loss_on_a_protected_slice_fails_the_rule_and_stands_in_the_record(project: Project) -> None:
    tag(project, 12)
    project.says("baseline", 12)
    project.answers["tuned"] = {row_id(i): expected(i) if i >= 10 else "{}" for i in range(80)}
    project.save()
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*rule 'label' does not hold*",
            "*slice 'negative': demonstrably worse than the base model on its 12 rows*",
        ]
    )
    experiment = project.experiment()
    assert experiment["decision"]["verdict"] == "iterate"
    slices = {arm: facts["rules"]["label"]["slices"] for arm, facts in experiment["arms"].items()}
    assert list(slices["tuned"]) == ["negative", "plain"]
    assert slices["tuned"]["negative"]["verdict"] == "worse"
    assert slices["tuned"]["plain"]["verdict"] == "beats"
    assert slices["baseline"]["negative"]["rate"] == 1.0
    assert experiment["rules"]["label"]["protected"] == ["negative"]
    lines = result.outlines
    at = lines.index("  label by tags: negative 16.7% of 12 (-83.3, worse), plain 100.0% of 68")
    assert lines[at + 1] == "    (+100.0, beats)"


def test_an_adapter_that_keeps_its_slices_is_kept(project: Project) -> None:
    tag(project, 12)
    assert project.run("--finetune").ret == 0
    slices = project.experiment()["arms"]["tuned"]["rules"]["label"]["slices"]
    assert slices["negative"]["total"] == 12


def test_a_protected_slice_that_no_row_is_in_is_never_green(project: Project) -> None:
    tag(project, 12)
    project.write({"test_rules.py": SLICED.replace('["negative"]', '["positive"]')})
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*rule 'label' cannot be judged*", "*no counted row is in; slices: negative, plain"]
    )
    assert project.experiment()["decision"]["undecided"]
