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


HARD = """
@pytest.mark.slow
@pytest.mark.eval_rule(min_rate=0.95)
def test_hard(response, example):
    assert response.text == example.expected
"""


@pytest.fixture
def with_a_failing_rule(promotable: Project) -> Project:
    """A project that is red by one rule alone: its decision test asks for a verdict, not for keep."""
    rules = promotable.path / "test_rules.py"
    decision = "def test_decided(decision):\n    assert decision.verdict\n"
    settings = "[pytest]\nmarkers = slow: takes its time\n"
    promotable.write(
        {"test_rules.py": rules.read_text() + HARD, "test_decision.py": decision, "pytest.ini": settings}
    )
    return promotable


ALL_BUT_HARD = (
    "test_data.py",
    "test_fit.py",
    "test_rules.py::test_label",
    "test_rules.py::test_strict_json",
    "test_decision.py",
)


@pytest.mark.parametrize(
    ("args", "named", "ran"),
    [
        (("-k", "not hard"), "-k 'not hard'", "failed"),  # the decision brings its rules along
        (("-k", "not hard and not decided"), "-k 'not hard and not decided'", "not run"),
        (("-m", "not slow"), "-m 'not slow'", "failed"),
        (("--deselect", "test_rules.py::test_hard"), "--deselect=test_rules.py::test_hard", "not run"),
        (ALL_BUT_HARD, " ".join(ALL_BUT_HARD), "failed"),
        (ALL_BUT_HARD[:-1], " ".join(ALL_BUT_HARD[:-1]), "not run"),
        (("--ignore=test_rules.py",), "--ignore=*test_rules.py", None),
    ],
    ids=[
        "k",
        "k without the decision",
        "m",
        "deselect",
        "node ids",
        "node ids without the decision",
        "ignore",
    ],
)
def test_a_rule_that_is_left_out_is_no_way_to_a_bundle(
    with_a_failing_rule: Project, args: tuple[str, ...], named: str, ran: str | None
) -> None:
    result = with_a_failing_rule.run("--finetune", "--finetune-promote", "-p", "no:cacheprovider", *args)
    assert result.ret == 1
    assert not (with_a_failing_rule.path / "artifacts").exists()
    result.stdout.fnmatch_lines(
        [f"not promoted: the run was narrowed ({named}): promote from a bare pytest *"]
    )
    if ran is not None:
        result.stdout.fnmatch_lines([f"not promoted: finetune: rule 'hard' did not pass ({ran})"])


def test_the_tests_that_failed_last_are_no_whole_run(with_a_failing_rule: Project) -> None:
    project = with_a_failing_rule
    project.write({"test_other.py": "import os\n\ndef test_other():\n    assert os.path.exists('mended')\n"})
    rules = project.path / "test_rules.py"
    rules.write_text(rules.read_text().replace(HARD, ""))
    assert project.run("--finetune").ret == 1
    project.write({"mended": ""})
    result = project.run("--lf", "--finetune", "--finetune-promote")
    assert not (project.path / "artifacts").exists()
    said = "not promoted: no data, fit, rule or decision test ran (the run was narrowed: --lf)"
    result.stdout.fnmatch_lines([said])
    assert result.ret == 1
    assert project.run("--collect-only", "-q", "--finetune", "--finetune-promote").ret == 0


def test_the_rule_that_failed_last_is_run_again_alone_and_is_no_whole_run(
    with_a_failing_rule: Project,
) -> None:
    project = with_a_failing_rule
    assert project.run("--finetune").ret == 1
    rules = project.path / "test_rules.py"
    rules.write_text(rules.read_text().replace("min_rate=0.95", "min_rate=0.9"))
    result = project.run("--lf", "--finetune", "--finetune-promote")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["not promoted: the run was narrowed (--lf): promote from a bare pytest *"])
    assert not (project.path / "artifacts").exists()


def test_a_failing_rule_that_was_taken_out_of_the_file_is_no_way_to_a_bundle(
    with_a_failing_rule: Project,
) -> None:
    project = with_a_failing_rule
    assert project.run("--finetune").ret == 1
    rules = project.path / "test_rules.py"
    whole = rules.read_text()
    rules.write_text(whole.replace(HARD, ""))
    said = (
        "not promoted: finetune: rule 'hard' did not pass on these held-out rows (failed on 20*) and is gone: bring it "
        "back, or hold out rows that it has not judged"
    )
    for _ in range(2):  # the run without the rule is remembered too, and changes nothing
        result = project.run("--finetune", "--finetune-promote")
        assert result.ret == 1
        result.stdout.fnmatch_lines([said])
        assert not (project.path / "artifacts").exists()
    rules.write_text(
        whole.replace("def test_hard", "def test_renamed").replace("min_rate=0.95", "min_rate=0.9")
    )
    assert project.run("--finetune", "--finetune-promote").ret == 1  # another name and another text
    rules.write_text(whole.replace("min_rate=0.95", "min_rate=0.9"))  # changed in the open: told as changed
    assert project.run("--finetune", "--finetune-promote").ret == 0


def test_a_rule_that_passed_may_go_and_one_may_get_another_name(promotable: Project) -> None:
    assert promotable.run("--finetune").ret == 0
    rules = promotable.path / "test_rules.py"
    text = rules.read_text().replace("def test_label", "def test_right_label")
    rules.write_text(
        text[: text.index("@pytest.mark.eval_rule(min_rate")]
        + text[text.index("@pytest.mark.eval_rule(primary") :]
    )
    assert promotable.run("--finetune", "--finetune-promote").ret == 0


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
