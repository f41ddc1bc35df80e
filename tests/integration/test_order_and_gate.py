"""In which order tests run, and what a failure in an early stage does to the later ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from .conftest import Project


def names(result: pytest.RunResult) -> list[str]:
    """Return the node ids of a ``-v`` run in the order in which they ran."""
    marks = (" PASSED", " FAILED", " ERROR", " SKIPPED")
    return [
        line.split(mark)[0].strip()
        for line in result.outlines
        for mark in marks
        if mark in line and "::" in line.split(mark)[0]
    ]


def test_stages_run_in_order_after_foreign_tests_whatever_the_files_say(project: Project) -> None:
    project.write(
        {
            "test_a_all.py": "import pytest\n"
            "def test_decided(decision): assert decision.keep\n"
            "def test_compared(tuned, baseline): assert tuned['label'].beats(baseline['label'])\n"
            "@pytest.mark.eval_rule(min_rate=0.5)\ndef test_rule(response): response.json()\n"
            "def test_trained(trained_adapter): assert trained_adapter.path.is_dir()\n"
            "def test_based(base_model): pass\n"
            "def test_rows(train_rows): assert len(train_rows) == 40\n",
            "test_z_other.py": "def test_second(): pass\ndef test_first(): pass\n",
        }
    )
    result = project.run("--finetune", "-v")
    assert result.ret == 0
    assert names(result) == [
        "test_z_other.py::test_second",
        "test_z_other.py::test_first",
        "test_a_all.py::test_rows",
        "test_data.py::test_contract",
        "test_a_all.py::test_based",
        "test_a_all.py::test_trained",
        "test_a_all.py::test_rule",
        "test_rules.py::test_strict_json",
        "test_rules.py::test_label",
        "test_a_all.py::test_compared",
        "test_a_all.py::test_decided",
        "test_decision.py::test_keep",
    ]


def test_data_of_all_experiments_comes_before_any_model(project: Project) -> None:
    text = (project.path / "finetune.yaml").read_text()
    project.write(
        {
            "b.yaml": text.replace("r: 4", "r: 2"),
            "pytest.ini": "[pytest]\nfinetune_experiments = finetune.yaml b.yaml\n",
        }
    )
    ran = names(project.run("--finetune", "-v"))
    assert ran[:2] == ["test_data.py::test_contract[finetune]", "test_data.py::test_contract[b]"]
    assert [name.split("[")[1] for name in ran[2:]] == ["finetune]"] * 3 + ["b]"] * 3


def test_a_fixture_of_the_users_that_has_our_name_is_left_alone(project: Project) -> None:
    project.write(
        {
            "test_theirs.py": "import pytest\n"
            "@pytest.fixture\ndef experiment(): return 'mine'\n"
            "def test_mine(experiment): assert experiment == 'mine'\n"
            "@pytest.mark.parametrize('decision', [1, 2])\ndef test_values(decision): assert decision\n"
        }
    )
    result = project.run("test_theirs.py", "-v")
    result.assert_outcomes(passed=3)
    assert "finetune =" not in result.stdout.str()


def test_a_failed_data_test_closes_the_gate_and_blocked_tests_name_it(project: Project) -> None:
    rows = (project.path / "train.jsonl").read_text().splitlines()
    rows[4] = '{"instruction": "label it", "input": "broken'
    project.write({"train.jsonl": "\n".join(rows) + "\n"})
    result = project.run("--finetune")
    result.assert_outcomes(failed=1, errors=3)
    result.stdout.fnmatch_lines(["*not run: the data stage failed in test_data.py::test_contract*"])
    result.stdout.fnmatch_lines(["*train.jsonl:5*"])
    assert project.calls() == []
    decision = project.experiment()["decision"]
    assert decision["undecided"]
    assert "test_data.py::test_contract" in decision["reasons"][0]


def test_the_built_in_check_guards_the_training_when_the_data_tests_were_left_out(project: Project) -> None:
    (project.path / "test_data.py").unlink()
    rows = (project.path / "train.jsonl").read_text().splitlines()
    held_out = (project.path / "eval.jsonl").read_text().splitlines()
    leaked = held_out[3].replace('"expected"', '"output"').replace('"id": "e003", ', "")
    project.write({"train.jsonl": "\n".join([*rows, leaked]) + "\n"})
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*nothing is trained: the rows break the contract*", "*leak/*"])
    assert project.calls() == []


def test_a_failed_training_blocks_the_rest_and_is_told_once(project: Project) -> None:
    project.answers["training_error"] = "the sun went down"
    project.save()
    result = project.run("--finetune")
    result.assert_outcomes(passed=1, failed=1, errors=2)
    text = result.stdout.str()
    assert text.count("RuntimeError: the sun went down") >= 1
    result.stdout.fnmatch_lines(
        ["*not run: the training stage failed in test_rules.py::test_strict_json: the sun went down*"]
    )
    assert project.calls() == ["train"]
    assert project.experiment()["decision"]["verdict"] == "iterate"


def test_a_failed_rule_does_not_hide_the_decision(project: Project) -> None:
    project.says("tuned", 20)
    result = project.run("--finetune")
    assert result.ret == 1
    assert {test["outcome"] for test in project.record()["tests"] if test["stage"] == "decision"} == {
        "failed"
    }
    assert project.experiment()["decision"]["verdict"] in {"iterate", "keep", "discard"}
    assert not project.experiment()["decision"]["undecided"]


def test_the_decision_message_is_one_line(project: Project) -> None:
    project.says("tuned", 0)
    result = project.run("--finetune")
    line = next(line for line in result.outlines if line.startswith("E ") and "AssertionError" in line)
    assert len(line) < 240


def test_an_interrupted_training_leaves_a_record(project: Project) -> None:
    text = (project.path / "conftest.py").read_text()
    project.write(
        {"conftest.py": text.replace("    if error:\n", "    raise KeyboardInterrupt\n    if error:\n")}
    )
    result = project.run("--finetune", subprocess=True)
    assert result.ret == 2
    assert project.record()["exit_status"] == 2
    decision = project.experiment()["decision"]
    assert decision["undecided"]
    assert decision["reasons"][0].startswith("the training stage failed in test_rules.py::test_strict_json")
