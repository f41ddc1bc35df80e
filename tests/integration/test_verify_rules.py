"""`verify --rules`: outcomes that do not follow from the answers in the bundle are found by running the rules again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.judging.runtime_match import moved
from pytest_finetune.record.case import scores_of

from .bundles import doctor, many_rules, promote, redecide

Json = dict[str, Any]
Verify = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle with every kind of rule, without its rows, and the project that it comes from."""
    project = many_rules(tmp_path_factory.mktemp("project"))
    bundle = tmp_path_factory.mktemp("away") / "bundle"
    shutil.move(promote(project), bundle)
    shutil.rmtree(project.path / ".finetune")
    return bundle, project.path


@pytest.fixture
def bundle(made: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(made[0], tmp_path / "bundle"))


@pytest.fixture
def rules(made: tuple[Path, Path], tmp_path: Path) -> Path:
    """The rules alone, without the project's rows, to change."""
    folder = tmp_path / "rules"
    folder.mkdir()
    shutil.copy(made[1] / "test_rules.py", folder)
    return folder


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_outcomes_that_follow_are_said_to_follow_and_nothing_is_written(
    made: tuple[Path, Path], verify: Verify
) -> None:
    bundle, project = made
    before = everything(bundle), everything(project)
    code, said = verify(bundle, "--rules", project)
    assert code == 0, said
    lines = said.splitlines()
    # 80 rows x 3 arms under 3 rules, 80 x 2 perturbed, 20 x 2 of the suite, 1 x 3 for all rows together
    assert f"  rules      6 rules of {project} run again, 1,164 outcomes as recorded" in lines
    assert lines[-1] == (
        "this proves that these are the promoted files, and KEEP follows from the outcomes in their record, the outcomes "
        f"follow from the answers by the rules in {project}; it does not prove the outcomes of the noise runs of the base "
        "(not checked: a bundle does not hold their answers), that the adapter gives these answers, who made it"
    )
    assert (everything(bundle), everything(project)) == before


def test_without_the_rows_they_are_taken_from_the_record_where_their_digest_proves_them(
    made: tuple[Path, Path], rules: Path, verify: Verify
) -> None:
    code, said = verify(made[0], "--rules", rules / "test_rules.py")
    assert code == 0, said
    assert "6 rules of" in said


def flip(rule: str, arm: str, count: int) -> Callable[[Json], None]:
    def change(record: Json) -> None:
        (experiment,) = record["experiments"]
        scores = experiment["rules"][rule]["scores"][arm]
        scores[-count:] = [1] * count
        if rule == "label" and arm == "tuned":  # an honest run would count these agreements otherwise
            agreed = experiment["runtime_match"][0]["rules"]["label"]
            agreed |= {
                "same": agreed["same"] - count,
                "rows": [*agreed["rows"], *experiment["rules"][rule]["rows"][-count:]],
            }
            found = scores_of(experiment, rule)
            paired = moved(found.rows, found.arms["tuned"], found.arms["tuned@prod"], found.groups)
            assert paired is not None
            experiment["runtime_match"][0]["moved"][rule] = paired.as_json()
        redecide(experiment)

    return change


@pytest.mark.parametrize(
    ("rule", "arm", "count", "said"),
    [
        (
            "label",
            "tuned",
            5,
            "rule label: 5 of 80 outcomes of tuned do not follow from the answers: e075 (1, now 0), e076",
        ),
        (
            "labels_known",
            "baseline",
            1,
            "1 of 1 outcome of baseline do not follow from the answers: all rows (1, now 0.5)",
        ),
        (
            "strict_json",
            "baseline",
            2,
            "2 of 80 outcomes of baseline do not follow from the answers: e078 (1, now 0)",
        ),
    ],
)
def test_a_record_that_is_consistent_and_not_earned_by_its_answers_is_found_by_the_rules_alone(
    bundle: Path, rules: Path, verify: Verify, rule: str, arm: str, count: int, said: str
) -> None:
    doctor(bundle, flip(rule, arm, count))
    code, out = verify(bundle)
    assert code == 0, out
    assert "it does not prove that the outcomes follow from the answers" in out
    code, out = verify(bundle, "--rules", rules)
    assert code == 1
    assert "1 thing not as promoted" in out
    assert said in out


def test_a_rule_of_another_text_is_told_and_judged_by_what_it_gives(
    made: tuple[Path, Path], rules: Path, verify: Verify
) -> None:
    file = rules / "test_rules.py"
    rewrite(file, "json.loads(response.text)\n", "assert json.loads(response.text) is not None\n")
    code, said = verify(made[0], "--rules", rules)
    assert code == 0, said
    assert f"note       {rules} has another text of strict_json than the run judged by" in said
    assert f"by the rules in {rules} (whose text differs in strict_json)" in said
    rewrite(file, "assert json.loads(response.text) is not None\n", 'assert "high" in response.text\n')
    code, said = verify(made[0], "--rules", rules)
    assert code == 1
    assert (
        "rule strict_json: 62 of 80 outcomes of tuned do not follow from the answers: e000 (1, now 0)" in said
    )
    assert f"note: {rules} has another text of strict_json than the run judged by" in said


def test_missing_broken_and_further_rules_are_named(
    made: tuple[Path, Path], rules: Path, verify: Verify
) -> None:
    file = rules / "test_rules.py"
    rewrite(file, "def test_strict_json(response):", "def test_new(response):")
    rewrite(
        file,
        "def test_known_rows_only(response, example):",
        "def test_known_rows_only(response, example, judge):",
    )
    (rules / "test_more.py").write_text("import no_such_module\n")
    code, said = verify(made[0], "--rules", rules)
    assert code == 1
    assert f"rule strict_json: is not among the rules in {rules}" in said
    assert "rule known_rows_only: cannot be run again: " in said
    assert "fixture 'judge' not found" in said
    assert "test_more.py: cannot be collected: ModuleNotFoundError: No module named 'no_such_module'" in said
    assert f"note: {rules} holds 1 rule that the run did not judge by: new" in said


def test_a_rule_that_reads_what_only_the_rows_hold_is_not_checked_without_them(
    made: tuple[Path, Path], rules: Path, verify: Verify
) -> None:
    rewrite(
        rules / "test_rules.py",
        'if example.id == "e079":',
        'if example.raw.get("hard") or example.id == "e079":',
    )
    code, said = verify(made[0], "--rules", rules)
    assert code == 0, said
    assert (
        "it does not prove the outcomes of known_rows_only (not checked: it reads 'hard' of the rows, which only their "
        "file holds: promote with --finetune-promote-data, or name the rules in their project)" in said
    )
    assert "5 rules of" in said


def test_a_rule_that_asks_for_a_model_is_not_checked(
    made: tuple[Path, Path], rules: Path, verify: Verify
) -> None:
    asks = "def test_known_rows_only(response, example, base_model):"
    rewrite(rules / "test_rules.py", "def test_known_rows_only(response, example):", asks)
    code, said = verify(made[0], "--rules", rules)
    assert code == 0, said
    why = "it asks for a model, and stored answers are judged here"
    assert f"it does not prove the outcomes of known_rows_only (not checked: {why})" in said
    assert "5 rules of" in said


def test_a_folder_without_rules_of_this_experiment_is_a_mistake(
    made: tuple[Path, Path], tmp_path: Path, verify: Verify
) -> None:
    (tmp_path / "test_other.py").write_text("def test_plain():\n    raise RuntimeError('never run')\n")
    code, said = verify(made[0], "--rules", tmp_path)
    assert code == 2
    assert (
        f"pytest-finetune verify: --rules {tmp_path}: no eval_rule of this experiment was found there" in said
    )
    assert "never run" not in said
    code, said = verify(made[0], "--rules", tmp_path / "no")
    assert code == 2
    assert "there is no such folder" in said


def test_a_projects_own_settings_and_a_pytest_around_it_change_nothing(
    made: tuple[Path, Path], rules: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = "[pytest]\naddopts = -n 2 -k nothing --maxfail=1\nfilterwarnings = error\n"
    (rules / "pytest.ini").write_text(
        f"{settings}finetune_experiments = other.yaml\nfinetune_store_readonly = true\n"
    )
    seen = tmp_path / "seen"
    hook = f"""
import pathlib, sys

def pytest_unconfigure():
    pathlib.Path({str(seen)!r}).write_text(str("torch" in sys.modules))
"""
    (rules / "conftest.py").write_text(hook)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")
    code, said = verify(made[0], "--rules", rules)
    assert code == 0, said
    assert "1,164 outcomes as recorded" in said
    assert seen.read_text() == "False"


def test_code_is_run_only_when_it_is_asked_for_and_only_over_a_sound_bundle(
    bundle: Path, rules: Path, verify: Verify
) -> None:
    (rules / "conftest.py").write_text("import pathlib\n\npathlib.Path('ran').touch()\n")
    assert verify(bundle)[0] == 0
    (bundle / "README.md").write_text("changed")
    code, said = verify(bundle, "--rules", rules)
    assert code == 1
    assert "README.md: was changed" in said
    assert not (rules / "ran").exists()


def test_the_answer_for_programs_holds_what_the_rules_gave(
    made: tuple[Path, Path], rules: Path, verify: Verify
) -> None:
    tree = json.loads(verify(made[0], "--rules", rules, "--json")[1])
    assert tree["verified"] is True
    assert tree["checked"]["rules"] == f"6 rules of {rules} run again, 1,164 outcomes as recorded"
    assert "that the outcomes follow from the answers" not in tree["does_not_prove"]
