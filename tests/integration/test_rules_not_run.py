"""A rule that judged nothing leaves the decision open and says why: its marker, its name, its set-up, a skip."""

from __future__ import annotations

import pytest

from .conftest import Project

BROKEN_SETUP = """
@pytest.fixture
def rubric():
    raise OSError("rubric.csv is not there")

@pytest.mark.eval_rule
def test_extra(response, rubric):
    assert response.text
"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "@pytest.mark.eval_rule(min_rat=0.9)\ndef test_extra(response):\n    pass\n",
            "rule 'extra' was not run: its marker is wrong: eval_rule(min_rat=...): unknown key; "
            "did you mean 'min_rate'?",
        ),
        (
            "@pytest.mark.eval_rule(name='label')\ndef test_extra(response):\n    pass\n",
            "rule 'label' was not run: 2 rules have the name 'label': rename a function, or give eval_rule(name=...)",
        ),
        (
            "@pytest.mark.eval_rule\nasync def test_extra(response):\n    pass\n",
            "rule 'extra' was not run: an eval_rule is a plain function",
        ),
        (
            "def test_extra(response):\n    pass\n",
            "rule 'extra' was not run: response: lives inside a rule only: mark the test with @pytest.mark.eval_rule",
        ),
        (BROKEN_SETUP, "rule 'extra' was not run: OSError: rubric.csv is not there"),
        (
            "@pytest.mark.skip(reason='later')\n@pytest.mark.eval_rule\ndef test_extra(response):\n    pass\n",
            "rule 'extra' was not run: it was skipped: later",
        ),
        (
            "@pytest.mark.eval_rule(suite='general')\ndef test_extra(response):\n    pass\n",
            "rule 'extra' could not judge (eval_rule(suite='general'): no such suite under paths.suites; known: none)",
        ),
    ],
    ids=["marker", "name", "async", "unmarked", "set-up", "skip", "suite"],
)
def test_a_rule_that_judged_nothing_leaves_the_decision_open(
    project: Project, code: str, reason: str, request: pytest.FixtureRequest
) -> None:
    file = project.path / "test_rules.py"
    file.write_text(file.read_text() + code, encoding="utf-8")
    result = project.run("--finetune", "--finetune-promote=bundle")
    assert result.ret == 1
    assert not (project.path / "bundle").exists()
    decision = project.experiment()["decision"]
    assert (decision["verdict"], decision["undecided"]) == ("iterate", True)
    assert any(said.startswith(reason) for said in decision["reasons"])
    assert decision["next_change"]["change"].startswith("mend rule '")
    known = decision["reasons"][0].startswith("the data stage failed in the rules of the experiment: rule ")
    assert known is ("train" not in project.calls())
    assert known is (request.node.callspec.id in {"marker", "name", "async", "unmarked"})
    result.stdout.fnmatch_lines([f"*{reason[:40].replace('[', '[[]')}*"])


def test_a_primary_rule_whose_marker_is_wrong_is_still_the_primary_one(project: Project) -> None:
    file = project.path / "test_rules.py"
    file.write_text(file.read_text().replace("min_gain=0.1", "min_gian=0.1"), encoding="utf-8")
    project.run("--finetune")
    experiment = project.experiment()
    assert experiment["rules"]["label"]["primary"]
    reasons = experiment["decision"]["reasons"]
    assert any(
        "rule 'label' was not run: its marker is wrong: eval_rule(min_gian=...)" in one for one in reasons
    )
    assert "train" not in project.calls()


def test_a_rule_behind_a_closed_gate_was_not_run_for_that_reason(project: Project) -> None:
    project.answers["training_error"] = "the sun went down"
    project.save()
    project.run("--finetune")
    reasons = project.experiment()["decision"]["reasons"]
    assert reasons[0] == "the training stage failed in test_rules.py::test_strict_json: the sun went down"
    assert "rule 'label' was not run: the training stage failed" in reasons
