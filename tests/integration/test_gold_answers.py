"""Rules meet the expected answers before anything is trained, under plain pytest too, and must be the same twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project

# `response.json()` on answers that are plain labels: no model can ever pass it.
TEXT_LABELS = """\
import pytest

@pytest.mark.eval_rule(primary=True, min_gain=0.1)
def test_label(response, example):
    assert response.json()["label"] == example.expected_json()["label"]

@pytest.mark.eval_rule
def test_short(response):
    assert len(response.text) < 40
"""
FAILS = (
    "rule 'label' fails its own gold answer on 80 of 80 rows: eval.jsonl:1: NotJson: not JSON at character 0: "
    "'critical'; the expected answer is 'critical'"
)


@pytest.fixture
def text_labels(project: Project) -> Project:
    """A project whose answers are plain labels, and whose primary rule parses them."""
    for name, key in (("train.jsonl", "output"), ("eval.jsonl", "expected")):
        rows = [json.loads(line) for line in (project.path / name).read_text().splitlines()]
        said = [{**row, key: json.loads(row[key])["label"]} for row in rows]
        project.write({name: "".join(json.dumps(row) + "\n" for row in said)})
    project.write({"test_rules.py": TEXT_LABELS})
    return project


def test_a_rule_that_no_answer_could_pass_stops_the_session_before_training(text_labels: Project) -> None:
    result = text_labels.run("--finetune")
    assert result.ret == 1
    assert text_labels.calls() == []
    result.stdout.fnmatch_lines([f"*{FAILS}*"])
    experiment = text_labels.experiment()
    assert experiment["rules"]["label"]["outcome"] == "error"
    assert experiment["rules"]["label"]["reasons"][0].startswith(FAILS)
    assert experiment["rules"]["short"]["self_test"]["gold"] == {"passed": 80, "total": 80}
    assert experiment["gate"]["stage"] == "data"
    decision = experiment["decision"]
    assert decision["undecided"]
    assert decision["reasons"][0].startswith(f"the data stage failed in the test of the rules: {FAILS}")


def test_plain_pytest_finds_it_without_a_model(text_labels: Project) -> None:
    result = text_labels.run("-rs")
    assert result.ret == 1
    assert text_labels.calls() == []
    assert not (text_labels.path / ".finetune").exists()
    result.assert_outcomes(errors=1, skipped=2, passed=1)
    result.stdout.fnmatch_lines(
        [f"*{FAILS}*", "SKIPPED*needs a model: run pytest --finetune (passes on its 80 gold answers)"]
    )


def test_rules_alone_load_no_torch_and_write_nothing(project: Project) -> None:
    conftest = (project.path / "conftest.py").read_text()
    check = "\nimport sys\ndef pytest_sessionfinish():\n    assert 'torch' not in sys.modules\n"
    project.write({"conftest.py": conftest + check})
    result = project.run("-rs", "test_rules.py", subprocess=True)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["SKIPPED [[]2] *(passes on its 80 gold answers)"])
    assert not (project.path / ".finetune").exists()
    assert not (project.path / "finetune-record").exists()


def test_a_rule_with_a_fixture_of_yours_is_tested_when_its_turn_comes(project: Project) -> None:
    project.write(
        {
            "test_more.py": "import pytest\n@pytest.fixture\ndef wanted():\n    return 'never'\n\n"
            "@pytest.mark.eval_rule\ndef test_extra(response, wanted):\n    assert response.text == wanted\n"
        }
    )
    plain = project.run("-rs")
    assert plain.ret == 0
    plain.stdout.fnmatch_lines(
        [
            "SKIPPED [[]2] *needs a model: run pytest --finetune",
            "SKIPPED [[]2] *(passes on its 80 gold answers)",
        ]
    )
    result = project.run("--finetune")
    assert "train" in project.calls()
    result.stdout.fnmatch_lines(["*rule 'extra' is broken: fails its own gold answer on 80 of 80 rows: *"])
    assert project.experiment()["rules"]["extra"]["outcome"] == "error"
    assert project.experiment()["decision"]["undecided"]


def test_a_primary_rule_that_judges_a_format_is_named_as_a_risk(project: Project) -> None:
    project.write(
        {
            "test_rules.py": "import pytest\n\n@pytest.mark.eval_rule(primary=True, min_gain=0.1)\n"
            "def test_json(response):\n    response.json()\n\n"
            "@pytest.mark.eval_rule\ndef test_short(response):\n    assert len(response.text) < 40\n"
        }
    )
    project.run("--finetune")
    experiment = project.experiment()
    blind = "passes on the answers of other questions as often as on the right ones: it judges a format, not an answer"
    assert not experiment["decision"]["undecided"]
    assert f"rule 'json' {blind}" in experiment["decision"]["risks"]
    assert not any("short" in risk for risk in experiment["decision"]["risks"])
    assert blind not in experiment["rules"]["json"]["reasons"]
    assert experiment["rules"]["short"]["reasons"][-1] == blind
    assert experiment["rules"]["short"]["outcome"] == "passed"


def test_a_rule_that_leaves_it_to_chance_is_an_error_of_the_rule(project: Project) -> None:
    code = (
        "import itertools, pytest\nCALLS = itertools.count()\n\n@pytest.mark.eval_rule(ARGUMENTS)\n"
        "def test_coin(response, example, score):\n"
        "    score(1.0 if response.text == example.expected and next(CALLS) < 155 else 0.25)\n"
    )
    project.write({"test_more.py": code.replace("ARGUMENTS", "min_rate=0.1")})
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*rule 'coin' is broken: it scored the same answer 1, then 0.25 (eval.jsonl:*): a rule that is not the same "
            "twice cannot judge; mark it judge=True, which stores its verdicts (docs/rules.md), or take the chance out "
            "of it"
        ]
    )
    assert project.experiment()["rules"]["coin"]["outcome"] == "error"
    project.write({"test_more.py": code.replace("ARGUMENTS", "min_rate=0.1, judge=True")})
    assert project.run("--finetune").ret == 0
    assert project.experiment()["rules"]["coin"]["judge"]
