"""Arms from outside in a whole session: a champion, imported answers, and what cannot be used."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_finetune.bundle.format import MANIFEST

from .bundles import seal
from .conftest import Project, expected, row_id
from .test_promotion import FIT


def with_arms(project: Project, text: str) -> None:
    file = project.path / "finetune.yaml"
    file.write_text(f"{file.read_text()}arms:\n{text}", encoding="utf-8")


def written(project: Project, right: int, name: str = "theirs.jsonl") -> None:
    """Write answers like a record's outputs, right on the first rows."""
    rows = range(project.rows)
    lines = [{"id": row_id(i), "response": expected(i) if i < right else "prose"} for i in rows]
    (project.path / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def champion(project: Project) -> str:
    """Train once, and return the key of the stored adapter."""
    project.run("--finetune", "test_decision.py")
    key: str = project.experiment()["key"]
    return key


def test_imported_answers_are_compared_and_shown_without_deciding(project: Project) -> None:
    written(project, 80)
    with_arms(project, "  theirs: {answers: theirs.jsonl}\n")
    result = project.run("--finetune")
    assert result.ret == 0
    record = project.experiment()
    assert record["decision"]["verdict"] == "keep"
    against = {(one["rule"], one["against"]): one["verdict"] for one in record["comparisons"]}
    assert against["label", "theirs"] == "worse"
    others = [(one["rule"], one["arm"], one["against"], one["fixed"]) for one in record["pairs"]]
    assert ("label", "theirs", "baseline", 80) in others
    facts = record["arms"]["theirs"]
    assert (facts["model"], facts["source"], facts["opponent"]) == ("answers", "theirs.jsonl", False)
    assert facts["rules"]["label"]["passed"] == 80
    lines = (project.path / "finetune-record" / "outputs" / "theirs.jsonl").read_text().splitlines()
    assert len(lines) == 80


def test_imported_answers_that_must_be_beaten_and_are_better_discard(project: Project) -> None:
    written(project, 80)
    with_arms(project, "  theirs: {answers: theirs.jsonl, must_beat: true}\n")
    assert project.run("--finetune").ret == 1
    decision = project.experiment()["decision"]
    assert decision["verdict"] == "discard"
    assert "arm 'theirs'" in decision["reasons"][0]
    assert decision["next_change"]["change"].startswith("serve arm 'theirs': ")


def test_a_champion_that_is_not_beaten_stays_in_service_whatever_else_is_found(project: Project) -> None:
    project.says("baseline", 78)  # so good that the diagnosis would say that prompting is enough
    project.says("tuned", 72)
    written(project, 80)
    with_arms(project, "  champion: {answers: theirs.jsonl, must_beat: true}\n")
    result = project.run("--finetune")
    assert project.experiment()["decision"]["verdict"] == "discard"
    result.stdout.re_match_lines([r"next change: serve the champion: it is as good as the adapter"])
    note = (project.path / "finetune-record" / "decision.md").read_text(encoding="utf-8")
    assert "serve the champion" in note
    assert "prompting is enough" not in note


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[2:], r"2 held-out rows have no answer: e000, e001"),
        (lambda lines: [*lines, lines[0]], r"1 are second answers to one row: e000 \(theirs.jsonl:1 and"),
        (
            lambda lines: [*lines, '{"id": "e999", "response": ""}'],
            r"1 belong to no held-out row: theirs.jsonl:81",
        ),
        (lambda lines: [*lines, "{"], r"theirs.jsonl:81: no JSON"),
        (lambda lines: ['{"id": "e000"}', *lines[1:]], r"theirs.jsonl:1: 'response' is missing"),
        (lambda lines: [], r"theirs.jsonl: holds no answer"),
    ],
)
def test_answers_that_are_not_one_for_each_row_stop_before_the_training(
    project: Project, damage: Callable[[list[str]], list[str]], message: str
) -> None:
    written(project, 80)
    file = project.path / "theirs.jsonl"
    file.write_text("".join(f"{line}\n" for line in damage(file.read_text().splitlines())), encoding="utf-8")
    with_arms(project, "  theirs: {answers: theirs.jsonl}\n")
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.re_match_lines([f".*{message}"])
    assert "train" not in project.calls()
    decision = project.experiment()["decision"]
    assert decision["undecided"]
    assert "the arms of the experiment" in decision["reasons"][0]


def test_a_new_adapter_must_beat_the_champion_of_the_store(project: Project) -> None:
    key = champion(project)
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text().replace("num_train_epochs: 1", "num_train_epochs: 2"), encoding="utf-8")
    with_arms(project, f"  champion: {{adapter: {key[:10]}}}\n")
    assert project.run("--finetune").ret == 1
    record = project.experiment()
    assert record["key"] != key
    assert record["arms"]["champion"]["key"] == key
    assert record["planned_arms"]["champion"]["opponent"]
    assert record["decision"]["verdict"] == "iterate"
    assert "a gain over the champion is not demonstrated" in record["decision"]["reasons"][0]


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("{adapter: abcdef012345}", r"arms.champion.adapter: 'abcdef012345' is no adapter in the store"),
        ("{bundle: nowhere}", r"arms.champion.bundle: 'nowhere' is no bundle: there is no MANIFEST.json"),
    ],
)
def test_a_champion_that_is_not_there_is_named_before_the_training(
    project: Project, arm: str, message: str
) -> None:
    with_arms(project, f"  champion: {arm}\n")
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.re_match_lines([f".*{message}"])
    assert "train" not in project.calls()


PAGE = (Path(__file__).parents[2] / "docs" / "arms.md").read_text(encoding="utf-8")


def test_tests_take_every_arm_by_its_name(project: Project) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    more = """
def test_names(arms):
    assert list(arms) == ["baseline", "majority", "tuned", "champion"]
    assert "champion" in arms and "loser" not in arms and len(arms) == 4
    assert repr(arms) == "<arms baseline, majority, tuned, champion>"
    assert arms["champion"]["label"].passed == 60
    assert arms["champion"].responses["e000"].json() == {"label": "critical"}

def test_unknown(arms):
    arms["loser"]
"""
    written(project, 60)
    with_arms(project, "  champion: {answers: theirs.jsonl}\n")
    project.write({"test_arms.py": code.replace("priority", "label") + more})
    result = project.run("--finetune", "test_arms.py")
    result.assert_outcomes(passed=5, failed=1)  # with the two rules that they need
    known = "there is no arm 'loser'; known: baseline, majority, tuned, champion: name another one under arms in the experiment"
    result.stdout.fnmatch_lines([f"*{known}*"])
    stages = {test["nodeid"]: test["stage"] for test in project.record()["tests"]}
    assert stages["test_arms.py::test_names"] == "comparison"


def test_a_test_that_takes_arms_is_skipped_without_a_model(project: Project) -> None:
    project.write({"test_arms.py": "def test_it(arms):\n    arms['tuned']\n"})
    result = project.run("test_arms.py")
    result.assert_outcomes(skipped=1)


def test_a_promoted_bundle_is_a_champion_until_a_byte_of_it_changes(project: Project) -> None:
    project.write({"test_fit.py": FIT})
    assert project.run("--finetune", "--finetune-promote=bundle").ret == 0
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text().replace("num_train_epochs: 1", "num_train_epochs: 2"), encoding="utf-8")
    with_arms(project, "  champion: {bundle: bundle}\n")
    project.run("--finetune")
    record = project.experiment()
    assert record["arms"]["champion"]["adapter_sha256"]
    assert "the champion" in record["decision"]["reasons"][0]
    with (project.path / "bundle" / "adapter_config.json").open("a") as stream:
        stream.write(" ")
    result = project.run("--finetune")
    result.stdout.re_match_lines([r".*1 of \d+ files are not as promoted \(adapter_config.json\)"])


def extra_file(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("read me")


def link(bundle: Path) -> None:
    (bundle / "decision.md").rename(bundle.parent / "decision.md")
    (bundle / "decision.md").symlink_to(bundle.parent / "decision.md")


def another_adapter(bundle: Path) -> None:
    """Put another adapter in, and mend the digests of the files, but not that of the manifest."""
    weights, manifest = bundle / "adapter_model.safetensors", bundle / MANIFEST
    other = weights.read_bytes()[:-4] + struct.pack("<f", 2.0)
    tree = json.loads(manifest.read_bytes())
    tree["files"][weights.name]["sha256"] = hashlib.sha256(other).hexdigest()
    weights.write_bytes(other)
    manifest.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")


def another_adapter_under_a_new_manifest(bundle: Path) -> None:
    """Put another adapter in, and write the manifest anew, but for the digest of the adapter as a whole."""
    another_adapter(bundle)
    seal(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (extra_file, r"1 of \d+ files are not as promoted \(notes.txt\)"),
        (link, r"decision.md is a link, not a file"),
        (another_adapter, r"MANIFEST.json was changed: it does not match its own digest"),
        (
            another_adapter_under_a_new_manifest,
            r"1 of \d+ files are not as promoted \(MANIFEST.json\)",
        ),
    ],
)
def test_a_champion_is_read_as_strictly_as_verify_reads_a_bundle(
    project: Project, change: Callable[[Path], None], message: str
) -> None:
    project.write({"test_fit.py": FIT})
    assert project.run("--finetune", "--finetune-promote=bundle").ret == 0
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text().replace("num_train_epochs: 1", "num_train_epochs: 2"), encoding="utf-8")
    with_arms(project, "  champion: {bundle: bundle}\n")
    change(project.path / "bundle")
    project.calls()
    result = project.run("--finetune")
    assert result.ret == 1
    result.stdout.re_match_lines([f".*arms.champion.bundle: 'bundle'.*{message}"])
    assert "train" not in project.calls()


def test_an_adapter_of_another_base_is_no_champion(project: Project) -> None:
    key = champion(project)
    other = project.path / "other"
    shutil.copytree(project.path / "base", other)
    (other / "config.json").write_text('{"model_type": "llama", "tie": true}')
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text().replace("base_model: base", "base_model: other"), encoding="utf-8")
    with_arms(project, f"  champion: {{adapter: {key}}}\n")
    result = project.run("--finetune")
    result.stdout.re_match_lines([r".*was trained on another base model than 'other'"])


def test_a_larger_base_is_asked_without_an_adapter_and_shown(project: Project) -> None:
    shutil.copytree(project.path / "base", project.path / "larger")
    (project.path / "larger" / "config.json").write_text('{"model_type": "llama", "layers": 9}')
    with_arms(project, "  larger: {base_model: larger}\n")
    assert project.run("--finetune").ret == 0
    record = project.experiment()
    assert record["arms"]["larger"]["base_model"] == "larger"
    assert record["arms"]["larger"]["outputs_key"] != record["arms"]["baseline"]["outputs_key"]
    assert not record["planned_arms"]["larger"]["opponent"]


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("{adapter: abcdef, bundle: b}", "arms.champion: an arm is one of .*; found adapter and bundle"),
        ("{must_beat: true}", "arms.champion: an arm is one of .*; found none of them"),
        ("{answers: no.jsonl}", "arms.champion.answers: found 'no.jsonl', but there is no such file"),
        ("{answers: ../x}", "arms.champion.answers: the path '../x' leads outside the project"),
    ],
)
def test_an_arm_that_cannot_be_meant_is_a_usage_error(project: Project, arm: str, message: str) -> None:
    with_arms(project, f"  champion: {arm}\n")
    result = project.run("--finetune")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.re_match_lines([f".*finetune.yaml:.*{message}"])


def test_names_of_our_own_arms_are_taken(project: Project) -> None:
    with_arms(project, "  tuned: {base_model: base}\n")
    assert project.run("--finetune").ret == pytest.ExitCode.USAGE_ERROR


def test_everything_from_outside_is_reused_by_a_second_run(project: Project) -> None:
    written(project, 40)
    with_arms(project, "  theirs: {answers: theirs.jsonl}\n")
    project.run("--finetune")
    project.calls()
    project.run("--finetune")
    assert project.calls() == []
    assert project.experiment()["decision"]["looks"] == 1
    assert Path(project.path / "theirs.jsonl").is_file()
