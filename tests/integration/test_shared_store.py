"""Whole sessions on a store that is shared: behind a URL, or only read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_finetune.store import LookBook, StoreError

from .bundles import FIT

if TYPE_CHECKING:
    from .conftest import Project


def new_machine(project: Project) -> None:
    """Forget what this machine has kept."""
    shutil.rmtree(project.path / ".finetune-cache")
    assert not (project.path / ".finetune").exists()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_machine_reuses_adapter_answers_and_looks(project: Project, tmp_path: Path) -> None:
    url = f"--finetune-store=file://{tmp_path}/shared"
    assert project.run("--finetune", url).ret == 0
    assert project.calls().count("train") == 1
    first = project.experiment()
    new_machine(project)
    assert project.run("--finetune", url).ret == 0
    assert project.calls() == []
    second = project.experiment()
    assert second["decision"]["verdict"] == first["decision"]["verdict"] == "keep"
    assert project.record()["notes"] == []
    project.write({"test_more.py": RULE})
    new_machine(project)
    assert project.run("--finetune", url).ret == 0
    assert project.experiment()["decision"]["looks"] == 2


RULE = """\
import pytest

@pytest.mark.eval_rule(min_rate=0.5)
def test_short(response):
    assert len(response.text) < 40
"""


def test_the_ini_file_names_a_url(project: Project, tmp_path: Path) -> None:
    project.write({"pytest.ini": f"[pytest]\nfinetune_store = file://{tmp_path}/shared\n"})
    assert project.run("--finetune").ret == 0
    assert (tmp_path / "shared" / "adapters").is_dir()


def test_a_pull_request_reads_and_leaves_nothing_behind(project: Project, tmp_path: Path) -> None:
    url = f"--finetune-store=file://{tmp_path}/shared"
    assert project.run("--finetune", url).ret == 0
    project.calls()
    before = files(tmp_path / "shared")
    new_machine(project)
    project.write({"test_more.py": RULE})
    assert project.run("--finetune", url, "--finetune-store-readonly").ret == 0
    assert project.calls() == []
    assert project.experiment()["decision"]["looks"] == 2
    assert project.run("--finetune", url, "--finetune-store-readonly", "--finetune-retrain").ret == 0
    assert project.calls().count("train") == 1
    assert files(tmp_path / "shared") == before


def test_a_folder_is_only_read_when_the_ini_file_says_so(project: Project) -> None:
    assert project.run("--finetune").ret == 0
    project.calls()
    before = files(project.path / ".finetune")
    project.write({"pytest.ini": "[pytest]\nfinetune_store_readonly = true\n"})
    assert project.run("--finetune").ret == 0
    assert project.calls() == []
    assert files(project.path / ".finetune") == before


READONLY = "[pytest]\nfinetune_store_readonly = true\n"


@pytest.mark.parametrize(("ini", "flag"), [("", "--finetune-store-readonly"), (READONLY, "--finetune")])
def test_a_promotion_from_a_store_that_is_only_read_is_refused_before_the_run(
    project: Project, ini: str, flag: str
) -> None:
    """Its look would be counted on this machine only."""
    project.write({"pytest.ini": ini or "[pytest]\n"})
    result = project.run("--finetune", "--finetune-promote", flag)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "*--finetune-promote contradicts --finetune-store-readonly: the look at the held-out rows would *"
    result.stderr.fnmatch_lines([said])
    assert project.calls() == []


def test_an_ini_file_that_says_only_read_can_be_overruled_for_a_promotion(project: Project) -> None:
    project.write({"pytest.ini": READONLY, "test_fit.py": FIT})
    result = project.run("--finetune", "--finetune-promote", "-o", "finetune_store_readonly=false")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["promoted: *artifacts/adapter"])


def test_a_look_that_cannot_be_written_down_is_said_and_costs_no_record(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        raise StoreError("store: cannot write down a look at looks: the disk is full")

    monkeypatch.setattr(LookBook, "register", full)
    result = project.run("--finetune")
    said = "the disk is full; this look is not counted, and the next decision on these rows would be too easy"
    assert said in "".join(project.record()["notes"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
