"""A bundle and a store that an earlier state of the package made: verified, read and reused by this one."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.cli import main
from pytest_finetune.store import Store

from . import golden

MADE = Path(__file__).parent / "made_before"
KINDS = {"adapters": 1, "outputs": 9, "records": 1}
SAME_PYTHON = sys.version_info[:2] == (3, 11)  # another one digests the same text of a rule otherwise
RULES = "ready rules, by Python 3.11"


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """The project as it was left: its store in .finetune, the bundle that its run promoted in artifacts/adapter."""
    with tarfile.open(MADE / "project.tar.gz") as tar:
        tar.extractall(pytester.path, filter="data")
    return pytester.path / "project"


@pytest.fixture
def bundle(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle, in the hands of a later version: one that may word its texts otherwise."""
    monkeypatch.setattr("pytest_finetune.bundle.reading.__version__", "99")
    return project / "artifacts" / "adapter"


def as_made() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MADE / "golden.json").read_bytes())
    return found


def test_a_bundle_made_before_is_verified(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(bundle)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"verified: {bundle}\n")
    assert "KEEP, computed again from 6 rules on 12 rows (look 1" in said
    assert "not compared: version 0.1.0 wrote them; numbers and verdicts were" in said


@pytest.mark.parametrize("name", ["record.json", "adapter_model.safetensors", "outputs/tuned.jsonl"])
def test_a_flipped_byte_in_it_is_found(bundle: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    assert main(["verify", str(bundle)]) == 1
    assert f"{name}: was changed" in capsys.readouterr().out


def test_its_rules_give_the_same_outcomes_again(
    bundle: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(bundle), "--rules", str(project)]) == 0
    said = capsys.readouterr().out
    assert "6 rules of" in said
    assert not (SAME_PYTHON and "has another text" in said)


def test_every_entry_of_a_store_made_before_is_read_by_its_key(project: Path) -> None:
    store = Store(project / ".finetune")
    keys = {kind: sorted(folder.name for folder in (store.root / kind).iterdir()) for kind in KINDS}
    assert {kind: len(found) for kind, found in keys.items()} == KINDS
    for kind, names in keys.items():
        for name in names:
            entry = store.read(kind, name)
            assert entry is not None
            assert entry.key == name
    assert store.warnings == []
    (look,) = store.looks.judged()
    assert (look.experiment, look.k, len(look.rows)) == ("finetune", 1, 12)
    (adapter,) = keys["adapters"]
    assert store.notes.pinned("adapters", adapter) is not None
    assert (store.last("key-finetune") or {})["key"] == adapter
    store.close()


def test_the_adapter_and_the_answers_made_before_are_reused(
    project: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    result = pytester.runpytest_subprocess("--finetune", "--finetune-device=cpu", f"--rootdir={project}")
    assert result.ret == 0, result.stdout.str()
    assert not (project / "calls.log").exists()  # nobody trained, nobody was asked
    (experiment,) = json.loads((project / "finetune-record" / "record.json").read_bytes())["experiments"]
    (before,) = json.loads((project / "artifacts" / "adapter" / "record.json").read_bytes())["experiments"]
    assert experiment["key"] == before["key"]
    assert experiment["arms"].keys() == before["arms"].keys() | {"majority"}  # computed: it asks nobody
    if SAME_PYTHON:
        assert experiment["decision"]["rules_sha256"] == before["decision"]["rules_sha256"]
        assert experiment["decision"]["looks"] == 1


def test_keys_and_digests_are_as_they_were(project: Path, tmp_path: Path) -> None:
    expected = as_made()
    del expected[RULES]
    assert golden.computed(project, tmp_path) == expected


@pytest.mark.skipif(not SAME_PYTHON, reason="another Python digests the same text otherwise")
def test_the_digests_of_the_ready_rules_are_as_they_were(
    project: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "test_ready.py").write_text((MADE / "ready_rules.txt").read_text("utf-8"), "utf-8")
    monkeypatch.chdir(project)
    pytester.runpytest_subprocess("--finetune", "--finetune-device=cpu", "test_ready.py")
    (experiment,) = json.loads((project / "finetune-record" / "record.json").read_bytes())["experiments"]
    digests = {name: facts["sha256"] for name, facts in experiment["rules"].items()}
    assert digests.items() >= as_made()[RULES].items()
