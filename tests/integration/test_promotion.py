"""A bundle exists only on positive evidence."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project

FIT = """\
import pytest

@pytest.mark.oom_fit
def test_fits(experiment):
    assert experiment.training.max_seq_length < 4096
"""


@pytest.fixture
def promotable(project: Project) -> Project:
    """A project with a test of every stage that a promotion wants to see passed."""
    project.write({"test_fit.py": FIT})
    return project


def test_a_kept_adapter_is_promoted_with_its_evidence(promotable: Project) -> None:
    result = promotable.run("--finetune", "--finetune-promote")
    assert result.ret == 0
    bundle = promotable.path / "artifacts" / "adapter"
    manifest = json.loads((bundle / "MANIFEST.json").read_text())
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert names == set(manifest["files"]) | {"MANIFEST.json"}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "record.json",
        "report.html",
        "decision.md",
        "README.md",
    } <= names
    for name, facts in manifest["files"].items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == facts["sha256"]
    assert "KEEP" in (bundle / "report.html").read_text()
    result.stdout.fnmatch_lines(["promoted: *artifacts/adapter"])


def test_the_folder_may_be_named_and_the_bundle_may_be_renewed(promotable: Project) -> None:
    promotable.run("--finetune", "--finetune-promote=out/mine")
    assert (promotable.path / "out" / "mine" / "MANIFEST.json").exists()
    assert promotable.run("--finetune", "--finetune-promote=out/mine").ret == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-k", "not never"], "the run was narrowed"),
        (["--deselect", "test_data.py::test_contract"], "the run was narrowed"),
        (["test_decision.py"], "the run was narrowed"),
        (["-p", "no:html"], "there is no report.html"),
    ],
)
def test_a_narrowed_run_is_refused_with_the_reason(promotable: Project, args: list[str], said: str) -> None:
    result = promotable.run(*args, "--finetune", "--finetune-promote")
    assert result.ret == 1
    assert not (promotable.path / "artifacts").exists()
    result.stdout.fnmatch_lines([f"not promoted: *{said}*"])


def test_without_a_passed_fit_test_nothing_is_promoted(project: Project) -> None:
    result = project.run("--finetune", "--finetune-promote")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["not promoted: finetune: no memory fit test passed*"])


def test_what_is_not_kept_is_not_promoted(promotable: Project) -> None:
    promotable.says("tuned", 0)
    result = promotable.run("--finetune", "--finetune-promote")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["not promoted: the run is not green*"])
    assert not (promotable.path / "artifacts").exists()


def test_a_bundle_of_another_adapter_is_never_overwritten(promotable: Project) -> None:
    promotable.run("--finetune", "--finetune-promote")
    before = (promotable.path / "artifacts" / "adapter" / "MANIFEST.json").read_bytes()
    promotable.answers["delta"] = 3.0
    promotable.save()
    result = promotable.run("--finetune", "--finetune-promote", "--finetune-set", "lora.r=2")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["not promoted: *holds a bundle of another adapter*"])
    assert (promotable.path / "artifacts" / "adapter" / "MANIFEST.json").read_bytes() == before


def test_a_folder_with_other_things_in_it_is_left_alone(promotable: Project) -> None:
    promotable.write({"artifacts/adapter/thesis.txt": "ten years of work"})
    result = promotable.run("--finetune", "--finetune-promote")
    assert result.ret == 1
    assert (promotable.path / "artifacts" / "adapter" / "thesis.txt").read_text() == "ten years of work"


def test_the_rows_come_along_when_they_are_asked_for(promotable: Project) -> None:
    assert promotable.run("--finetune", "--finetune-promote", "--finetune-promote-data").ret == 0
    rows = promotable.path / "artifacts" / "adapter" / "experiment" / "eval.jsonl"
    assert rows.read_bytes() == (promotable.path / "eval.jsonl").read_bytes()


def test_a_file_that_changed_after_it_was_read_stops_the_promotion(promotable: Project) -> None:
    later = """\

def test_somebody_edits(decision):
    with open("finetune.yaml", "a") as file:
        file.write("# later\\n")
"""
    promotable.write({"test_zz.py": later})
    result = promotable.run("--finetune", "--finetune-promote")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["not promoted: finetune.yaml has changed since the run read it*"])
    assert not (promotable.path / "artifacts" / "adapter").exists()


@pytest.mark.parametrize("flag", ["--finetune-promote-data", "--finetune-sign=key.pem"])
def test_what_only_a_promotion_uses_is_refused_without_one(promotable: Project, flag: str) -> None:
    result = promotable.run("--finetune", flag)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*{flag.partition('=')[0]} needs --finetune-promote*"])


def test_a_key_that_is_not_there_is_told_before_the_run(promotable: Project) -> None:
    result = promotable.run("--finetune", "--finetune-promote", "--finetune-sign=key.pem")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--finetune-sign=key.pem: there is no key file *key.pem*"])
    assert promotable.calls() == []
