"""Planted outcomes, each a whole session: the verdict that is right, the reason, and the one change that follows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import expected, make_project, row_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .conftest import Project

CONTRACT = """\
task: priority
version: 1
output: {format: json}
labels: {field: label, values: [critical, high, medium, low]}
"""
RULES = """\
import json
import pytest

@pytest.mark.eval_rule
def test_strict_json(response):
    json.loads(response.text)

@pytest.mark.eval_rule(ARGUMENTS)
def test_label(response, example):
    assert example.expected_json()["label"] in response.text
"""


def plant(
    pytester: pytest.Pytester, arms: Mapping[str, list[str]], arguments: str = "", **more: Any
) -> dict[str, Any]:
    """Let the arms answer as given, run the session, and return its experiment; `more` has further files."""
    rows = len(arms["tuned"])
    few_shot = 4 if "prompted" in arms else 0
    project = make_project(pytester, rows=rows, few_shot=few_shot)
    yaml = (project.path / "finetune.yaml").read_text()
    yaml = yaml.replace("num_train_epochs: 1", "num_train_epochs: 1, per_device_train_batch_size: 4")
    yaml = yaml.replace("eval_file: eval.jsonl", "eval_file: eval.jsonl, contract_file: contract.yaml")
    rules = RULES.replace("ARGUMENTS", ", ".join(filter(None, ["primary=True, min_gain=0.1", arguments])))
    project.write({"finetune.yaml": yaml, "contract.yaml": CONTRACT, "test_rules.py": rules})
    for arm, said in arms.items():
        project.answers[arm] = {row_id(i): text for i, text in enumerate(said)}
    project.save()
    for change in more.values():
        change(project)
    result = project.run("--finetune")
    assert project.calls().count("train") == 1
    experiment = project.experiment()
    assert (result.ret == 0) is experiment["decision"]["keep"]
    return experiment


def right(rows: int, wrong_from: int = 10**6, otherwise: str = "prose") -> list[str]:
    """Return right answers up to a row, and something else from there on."""
    return [expected(i) if i < wrong_from else otherwise for i in range(rows)]


def named(number: int) -> str:
    """Return a right answer in prose."""
    return f"I would say {json.loads(expected(number))['label']}."


def test_a_better_format_with_worse_labels_is_not_kept_and_both_are_named(pytester: pytest.Pytester) -> None:
    base = [named(i) if i < 60 else "prose" for i in range(80)]
    tuned = [expected(i) if i < 20 else expected(i + 1) for i in range(80)]
    decision = plant(pytester, {"baseline": base, "tuned": tuned})["decision"]
    assert decision["verdict"] == "discard"
    assert decision["reasons"][0].startswith(
        "label: the tuned model is demonstrably worse than the base model"
    )
    assert decision["reasons"][1].startswith(
        "what it did gain; strict_json: a gain over the base model is demonstrated"
    )
    assert (
        "80 of 80 answers carry a label (0 with the base model), but 60 the wrong one"
        in decision["next_change"]["because"]
    )


def test_one_label_everywhere_asks_for_contrast_rows(pytester: pytest.Pytester) -> None:
    base = right(80, 20, otherwise="{}")
    decision = plant(pytester, {"baseline": base, "tuned": [expected(0)] * 80})["decision"]
    assert decision["verdict"] != "keep"
    change = decision["next_change"]
    assert (
        change["change"] == "add contrast rows: inputs close to those of 'critical' with another right label"
    )
    assert change["because"] == "80 of 80 answers say 'critical', which is right for 20 of them"
    assert change["rows"][:3] == ["e001", "e002", "e003"]


def test_a_base_that_is_already_perfect_needs_no_adapter(pytester: pytest.Pytester) -> None:
    base = [f" {text}" for text in right(80)]
    decision = plant(pytester, {"baseline": base, "tuned": right(80)})["decision"]
    assert decision["verdict"] == "discard"
    assert decision["reasons"][0].startswith("label: a gain of 10 points over the base model is excluded")
    assert decision["next_change"]["change"].endswith("prompting is enough")


def test_a_prompt_that_does_as_well_is_served_instead(pytester: pytest.Pytester) -> None:
    arms = {"baseline": ["prose"] * 80, "prompted": right(80, 72), "tuned": right(80, 72, "{}")}
    decision = plant(pytester, arms)["decision"]
    assert decision["verdict"] == "discard"
    assert any("over the prompt alone is excluded" in reason for reason in decision["reasons"])
    assert "prompt" in decision["next_change"]["change"]


def test_three_rows_show_nothing_and_the_number_needed_is_named(pytester: pytest.Pytester) -> None:
    decision = plant(pytester, {"baseline": ["prose"] * 3, "tuned": right(3)})["decision"]
    assert decision["verdict"] == "iterate"
    assert not decision["undecided"]
    assert decision["plan_line"].startswith("keep impossible: 3 held-out rows cannot prove any gain")
    assert decision["examples_needed"] >= 6
    assert f"about {decision['examples_needed']} fresh held-out rows would settle it" in " ".join(
        decision["reasons"]
    )


def test_a_great_gain_inside_one_group_is_not_kept(pytester: pytest.Pytester) -> None:
    def one_group(project: Project) -> None:
        lines = [json.loads(line) for line in (project.path / "eval.jsonl").read_text().splitlines()]
        for number, line in enumerate(lines):
            line["group"] = "acme" if number < 30 else f"customer {number}"
        project.write({"eval.jsonl": "".join(json.dumps(line) + "\n" for line in lines)})

    arms = {"baseline": ["prose"] * 30 + right(80)[30:], "tuned": right(80)}
    decision = plant(pytester, arms, "cluster='group'", groups=one_group)["decision"]
    assert decision["verdict"] == "iterate"
    assert decision["reasons"][0].startswith("label: a gain over the base model is not demonstrated")
    assert "51 groups worth" in decision["reasons"][0]


def test_the_same_gain_without_groups_would_have_been_kept_with_a_risk(pytester: pytest.Pytester) -> None:
    arms = {"baseline": ["prose"] * 30 + right(80)[30:], "tuned": right(80)}
    assert plant(pytester, arms)["decision"]["verdict"] == "keep"


def test_a_task_learnt_while_a_guard_suite_is_lost_is_not_kept(pytester: pytest.Pytester) -> None:
    def general(project: Project) -> None:
        rows = [
            {"id": f"g{i}", "instruction": "say", "input": f"general thing {i}", "expected": "ok"}
            for i in range(40)
        ]
        yaml = (project.path / "finetune.yaml").read_text()
        suites = "contract_file: contract.yaml, suites: {general: general.jsonl}"
        rule = '\n@pytest.mark.eval_rule(suite="general")\ndef test_general(response):\n    assert response.text == "ok"\n'
        project.write(
            {
                "general.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
                "finetune.yaml": yaml.replace("contract_file: contract.yaml", suites),
                "test_rules.py": (project.path / "test_rules.py").read_text() + rule,
            }
        )
        for arm, kept in (("baseline", 40), ("tuned", 25)):
            project.answers[arm] |= {f"g{i}": "ok" if i < kept else "{}" for i in range(40)}
        project.save()

    decision = plant(pytester, {"baseline": ["prose"] * 80, "tuned": right(80)}, suite=general)["decision"]
    assert decision["verdict"] == "iterate"
    assert decision["reasons"][0].startswith(
        "rule general fails: guard: demonstrably worse than the base model"
    )


@pytest.mark.parametrize("arguments", ["", "min_rate=0.5"])
def test_a_gain_over_nothing_with_one_label_everywhere_is_refused(
    pytester: pytest.Pytester, arguments: str
) -> None:
    decision = plant(pytester, {"baseline": ["prose"] * 80, "tuned": [expected(0)] * 80}, arguments)[
        "decision"
    ]
    assert decision["verdict"] != "keep"
    assert "80 of 80 answers say 'critical', which is right for 20 of them" in decision["risks"]
    assert decision["risk_weights"][0] == "high"
    assert any("the commonest answer" in reason for reason in decision["reasons"])
    assert any("min_rate: 20 of 80 rows pass" in reason for reason in decision["reasons"]) is bool(arguments)
    assert decision["next_change"]["change"].startswith("add contrast rows")


def test_answers_that_run_on_ask_for_the_stop_token(pytester: pytest.Pytester) -> None:
    def endless(project: Project) -> None:
        conftest = (project.path / "conftest.py").read_text()
        project.write({"conftest.py": conftest.replace("4, 0.01, True)", "8, 0.01, arm != 'tuned')")})

    arms = {"baseline": right(80, 3), "tuned": right(80, 3, "prose and more prose")}
    decision = plant(pytester, arms, endless=endless)["decision"]
    assert decision["verdict"] != "keep"
    assert (
        decision["next_change"]["change"]
        == "teach the stop token: let every training output end with it, uncut"
    )
    assert (
        decision["next_change"]["because"]
        == "80 of 80 answers run to the limit of 8 tokens without a stop token"
    )
