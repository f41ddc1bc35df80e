"""A run on data sets of the `datasets` library: the same rows are the same training, judged, promoted and verified."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Project
from .test_promotion import FIT

COMMIT = "c" * 40
HELD_OUT = f"hf://datasets/acme/cases@{COMMIT}/test"


def as_data_sets(project: Project, cache: Path) -> None:
    """Save the training rows as `datasets` does, and put the held-out rows into its cache as acme/cases."""
    datasets = pytest.importorskip("datasets")
    for split in ("train", "eval"):
        rows = [json.loads(line) for line in (project.path / f"{split}.jsonl").read_text().splitlines()]
        datasets.Dataset.from_list(rows).save_to_disk(str(project.path / "saved" / split))
    folder = cache / "acme___cases" / "default" / "0.0.0" / COMMIT
    folder.mkdir(parents=True)
    (arrow,) = (project.path / "saved" / "eval").glob("*.arrow")
    arrow.rename(folder / "cases-test.arrow")
    info = {"config_name": "default", "splits": {"test": {"name": "test"}}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    text = (project.path / "finetune.yaml").read_text()
    text = text.replace("train.jsonl", "saved/train").replace("eval.jsonl", HELD_OUT)
    project.write({"finetune.yaml": text, "test_fit.py": FIT})


def test_the_same_rows_in_a_data_set_reuse_the_adapter_and_their_run_is_promoted(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verify: Callable[..., tuple[int, str]],
) -> None:
    assert project.run("--finetune").ret == 0
    key = project.experiment()["key"]
    assert "train" in project.calls()
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    as_data_sets(project, tmp_path / "cache")
    refused = project.run("--finetune", "--finetune-promote", "--finetune-promote-data")
    assert refused.ret == 1
    refused.stdout.fnmatch_lines(
        ["not promoted: --finetune-promote-data copies files, and saved/train is a data set*"]
    )
    assert project.run("--finetune", "--finetune-promote").ret == 0
    found = project.experiment()
    assert (found["key"], "train" in project.calls()) == (key, False)
    files = found["checksums"]
    assert (files["train"]["path"], files["train"]["data_set"]) == ("saved/train", True)
    assert re.fullmatch(r"[0-9a-f]{64}", files["train"]["sha256"])
    assert (files["eval"]["path"], "data_set" in files["experiment"]) == (HELD_OUT, False)
    assert {row["file"] for row in found["held_out"]} == {HELD_OUT}
    assert found["data"]["findings"] == []
    code, said = verify(project.path / "artifacts" / "adapter")
    assert code == 0, said
