from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

import pytest_finetune
from pytest_finetune.cli import main
from pytest_finetune.cli.tasks import TASKS
from pytest_finetune.experiment import load_experiment

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Ran

FILES = {
    ".finetune-schemas/experiment.schema.json",
    ".finetune-schemas/contract.schema.json",
    "finetune.yaml",
    "pytest.ini",
    "data/contract.yaml",
    "data/train.jsonl",
    "eval/check.jsonl",
    "tests/test_data.py",
    "tests/test_fit.py",
    "tests/test_rules.py",
    "tests/test_decision.py",
}


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_whole_project_is_written_and_every_file_is_named(run: Callable[..., Ran], tmp_path: Path) -> None:
    ran = run("init", tmp_path / "new")
    assert ran.code == 0
    assert written(tmp_path / "new") == FILES
    assert {line.split()[1] for line in ran.out.splitlines() if line.startswith("wrote")} == FILES


def test_what_exists_is_left_as_it_is_and_named(run: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("mine\n")
    (tmp_path / "finetune.yaml").symlink_to("nowhere.yaml")
    ran = run("init", tmp_path)
    assert ran.code == 0
    assert (tmp_path / "data" / "train.jsonl").read_text() == "mine\n"
    assert not (tmp_path / "nowhere.yaml").exists()
    assert {line.split()[1] for line in ran.out.splitlines() if line.startswith("exists")} == {
        "data/train.jsonl",
        "finetune.yaml",
    }


def test_a_second_time_writes_nothing(run: Callable[..., Ran], tmp_path: Path) -> None:
    run("init", tmp_path)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in written(tmp_path)}
    ran = run("init", tmp_path)
    assert "wrote" not in ran.out
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in written(tmp_path)} == before


@pytest.mark.parametrize("name", ["pyproject.toml", "tox.ini", "setup.cfg", "pytest.toml"])
def test_settings_of_pytest_that_stand_elsewhere_are_not_shadowed(
    run: Callable[..., Ran], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("")
    ran = run("init", tmp_path)
    assert not (tmp_path / "pytest.ini").exists()
    assert f"exists  {name}" in ran.out


def test_a_file_in_place_of_the_folder_is_a_mistake(run: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    ran = run("init", tmp_path / "taken")
    assert (ran.code, ran.out) == (2, "")
    assert "cannot write" in ran.err


@pytest.mark.parametrize("task", TASKS)
def test_a_project_of_each_kind_is_green_at_once_and_what_a_person_must_state_is_told(
    run: Callable[..., Ran], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(pytester.path / "no-cache"))
    assert run("init", pytester.path, "--task", task).code == 0
    result = pytester.runpytest_inprocess("-rs", "-p", "no:cacheprovider")
    assert result.ret == 0
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes.get("failed")) == (2, None)
    said = result.stdout.str()
    assert "is not fetched yet: run pytest-finetune fetch" in said
    assert "(passes on its 6 gold answers)" in said
    assert "charter/owner: owner is not stated" in said
    experiment = load_experiment(pytester.path, "finetune.yaml")
    assert (experiment.task, experiment.charter.behaviour) == TASKS[task][:2]
    assert f'tuned["{TASKS[task].primary}"]' in (pytester.path / "tests" / "test_decision.py").read_text()
    rules = (pytester.path / "tests" / "test_rules.py").read_text()
    assert re.search(rf"^(def )?test_{TASKS[task].primary}(\(| = )", rules, re.M)


def test_editors_find_the_schemas_that_the_first_lines_name(run: Callable[..., Ran], tmp_path: Path) -> None:
    run("init", tmp_path)
    for name in ("finetune.yaml", "data/contract.yaml"):
        file = tmp_path / name
        _, _, named = file.read_text().splitlines()[0].partition("$schema=")
        assert json.loads((file.parent / named).read_text())["properties"]


def test_rows_of_ones_own_are_brought_in_with_the_project(run: Callable[..., Ran], tmp_path: Path) -> None:
    lines = [f"message {n} about {'parcels' if n % 2 else 'money'} {n * n},{'ab'[n % 2]}" for n in range(40)]
    (tmp_path / "mails.csv").write_text("\n".join(["body,label", *lines]))
    ran = run("init", tmp_path / "p", "--from", tmp_path / "mails.csv", "--column", "text=body")
    assert ran.code == 0
    assert "40 rows: 32 to train on, 8 held out" in ran.out
    assert len((tmp_path / "p" / "data" / "train.jsonl").read_text().splitlines()) == 32
    assert "test_answer" in (tmp_path / "p" / "tests" / "test_rules.py").read_text()


def test_a_shell_is_told_what_could_come_next(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    stand_in = ModuleType("argcomplete")
    vars(stand_in)["autocomplete"] = seen.append
    monkeypatch.setitem(sys.modules, "argcomplete", stand_in)
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    with pytest.raises(SystemExit):
        main(["--version"])
    assert len(seen) == 1


def test_with_its_questions_answered_the_new_project_passes(run: Callable[..., Ran], tmp_path: Path) -> None:
    run("init", tmp_path)
    file = tmp_path / "finetune.yaml"
    text = file.read_text()
    answers = {
        "prompt_tried:": "Half of the answers carry a sentence before the JSON.",
        "owner:": "shop-support",
        "data_license:": "internal",
        "retire_when:": "The shop's three queues are merged.",
    }
    for key, answer in answers.items():
        assert f"  {key} " in text
        text = text.replace(f"  {key} ", f"  {key} {answer} ", 1)
    file.write_text(text)
    done = pytest_in(tmp_path, "tests/test_data.py")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def pytest_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    package = str(Path(pytest_finetune.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": package, "HF_HUB_CACHE": str(folder / "no-cache"), "COLUMNS": "200"},
    )


@pytest.mark.parametrize(
    ("output", "rule"),
    [
        ('{"kind": "KIND", "n": 1}', "response.json()['kind'] == example.expected_json()['kind']"),
        ("KIND", "response.text.strip() == example.expected.strip()"),
    ],
)
def test_imported_rows_get_rules_and_an_experiment_of_their_own(
    run: Callable[..., Ran], tmp_path: Path, output: str, rule: str
) -> None:
    words = ["".join(chr(97 + int(digit)) for digit in f"{n * 7919:06}") for n in range(40)]
    rows = [
        {"question": f"{word} is {word[::-1]} or {word[2:]}", "answer": output.replace("KIND", "ab"[n % 2])}
        for n, word in enumerate(words)
    ]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    to = tmp_path / r"my täsk \1"
    assert run("import", tmp_path / "r.json", "--to", to).code == 0
    ran = run("init", to)
    assert "exists  data/train.jsonl" in ran.out
    assert "in place of the samples" not in ran.out
    assert rule in (to / "tests" / "test_rules.py").read_text()
    experiment = load_experiment(to, "finetune.yaml")
    assert (experiment.task, experiment.charter.behaviour) == (r"my täsk \1", None)
    rules, decision = ((to / "tests" / f"test_{name}.py").read_text() for name in ("rules", "decision"))
    (name,) = re.findall(r"primary=True.*\n *def test_(\w+)", rules)
    assert set(re.findall(r'(?:tuned|prompted)\["(\w+)"\]', decision)) == {name}
