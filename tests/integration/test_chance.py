"""Nobody is kept who knows nothing of the question: the commonest answer, or the question itself, is an opponent."""

from __future__ import annotations

import json

import pytest

from .conftest import Project, make_project, row_id


def test_an_adapter_that_always_says_one_label_is_not_kept_though_the_base_says_nothing_readable(
    pytester: pytest.Pytester,
) -> None:
    project = make_project(pytester, few_shot=4)
    project.says("prompted", 0)
    said = json.loads((project.path / "train.jsonl").read_text().splitlines()[0])["output"]
    project.answers["tuned"] = {row_id(i): said for i in range(project.rows)}
    project.save()
    result = project.run("--finetune", "--finetune-promote")
    assert result.ret == 1
    experiment = project.experiment()
    decision = experiment["decision"]
    assert decision["verdict"] != "keep"
    assert experiment["arms"]["tuned"]["rules"]["label"]["rate"] == 0.25
    against = {one["against"]: one for one in experiment["comparisons"] if one["rule"] == "label"}
    assert against["baseline"]["verdict"] == "beats"
    assert against["majority"]["verdict"] == "not demonstrated"
    assert against["majority"]["sentence"] in decision["reasons"]
    assert not (project.path / "artifacts").exists()


def test_an_opponent_without_a_model_makes_no_look_and_stands_in_the_record(project: Project) -> None:
    project.run("--finetune")
    experiment = project.experiment()
    assert experiment["planned_arms"]["majority"]["opponent"]
    assert experiment["planned_arms"]["majority"]["min_gain"] == 0.0
    assert "the commonest of 40 training answers" in experiment["arms"]["majority"]["described"]
    assert experiment["arms"]["majority"]["rules"]["strict_json"]["rate"] == 1.0
    project.run("--finetune")
    assert project.experiment()["decision"]["looks"] == 1


def test_free_text_is_opposed_by_the_question_given_back(project: Project) -> None:
    rows = [json.loads(line) for line in (project.path / "train.jsonl").read_text().splitlines()]
    free = [{**row, "output": f"about {row['input']}"} for row in rows]
    project.write(
        {
            "train.jsonl": "".join(json.dumps(row) + "\n" for row in free),
            "test_rules.py": "import pytest\n"
            "@pytest.mark.eval_rule(primary=True)\n"
            "def test_label(response, example):\n"
            "    assert response.text\n",
        }
    )
    project.run("--finetune")
    experiment = project.experiment()
    assert experiment["arms"]["copy"]["rules"]["label"]["rate"] == 1.0
    assert experiment["decision"]["verdict"] != "keep"


def test_the_name_of_an_opponent_without_a_model_is_taken(project: Project) -> None:
    text = (project.path / "finetune.yaml").read_text()
    project.write({"finetune.yaml": text + "arms: {majority: {base_model: other}}\n"})
    result = project.run("--finetune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*majority*"])
