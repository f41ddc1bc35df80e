"""What the store remembers of runs, and the table of them."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.cli import main
from pytest_finetune.store import Store, collect

if TYPE_CHECKING:
    from .conftest import Project


def history(capsys: pytest.CaptureFixture[str], project: Project, *words: str) -> str:
    capsys.readouterr()
    assert main(["history", "--rootdir", str(project.path), *words]) == 0
    return capsys.readouterr().out


def test_kept_and_discarded_runs_stay_and_the_same_run_stands_there_once(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.run("--finetune")
    project.run("--finetune")
    project.answers["delta"] = 3.0
    project.says("tuned", 0, other="<b>prose</b>")
    project.run("--finetune", "--finetune-set", "lora.r=8")
    runs: list[dict[str, Any]] = json.loads(history(capsys, project, "--json"))["runs"]
    found = {run["verdict"]: run for run in runs}
    assert len(runs) == 2
    assert found.keys() == {"keep", "discard"}
    keep = found["keep"]
    assert (keep["rate"], keep["base_rate"], keep["gain"], keep["look"]) == (0.9, 0.0, 0.9, 1)
    assert keep["rate_low"] < 0.9 < keep["rate_high"]
    assert keep["seconds"] == 0.1
    assert found["discard"]["reason"].startswith("label: a gain of 10 points over the base model is excluded")
    said = history(capsys, project)
    assert "2 runs: 1 keep, 1 discard" in said
    assert "90.0% [" in said
    rows = list(csv.DictReader(io.StringIO(history(capsys, project, "--csv"))))
    assert sorted(row["verdict"] for row in rows) == ["discard", "keep"]
    page = history(capsys, project, "--html")
    assert '<span aria-hidden="true">✕</span> discard</span>' in page
    assert "<p>2 runs, the newest first: 1 keep, 1 discard</p>" in page
    assert "<strong>+90.0 points</strong>" in page
    assert "label 0.0% → 90.0% [" in page
    assert "label: a gain of 10 points over the base model is excluded" in page
    assert page.count('class="ft-plot ft-arm-tuned"') == 2
    assert "<script" not in page
    assert not re.search(r"url\(|@import|https?://", page)
    collect(Store(project.path / ".finetune"), max_age_s=0.0, now_s=4e9)
    assert len(json.loads(history(capsys, project, "--json"))["runs"]) == 2


def test_two_runs_of_a_store_are_compared_row_by_row(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.run("--finetune")
    project.answers["delta"] = 3.0
    project.says("tuned", 60, other='{"label": "none"}')
    eval_rows = project.path / "eval.jsonl"
    eval_rows.write_text(eval_rows.read_text().replace("held-out case 7 on", "held-out case 7 about"))
    project.run("--finetune", "--finetune-set", "lora.r=8")
    runs = json.loads(history(capsys, project, "--json"))["runs"]
    a, b = (next(run["run"] for run in runs if run["look"] == look) for look in (1, 2))
    assert main(["compare", a, b, "--rootdir", str(project.path)]) == 0
    said = capsys.readouterr().out
    assert "held-out rows: 79 in both runs, 1 with another text in B (e007)" in said
    assert "answers of base: none of 79 changed" in said
    assert "answers of tuned: 12 of 79 changed (e060, e061," in said
    assert ["label", "79", "0", "12"] in [line.split()[:4] for line in said.splitlines()]
    assert ["key", "lora.r", "4", "8"] in [line.split() for line in said.splitlines()]
    assert main(["compare", a, str(project.path / "finetune-record"), "--rootdir", str(project.path)]) == 0
    from_record = capsys.readouterr().out
    assert from_record.split("differs in")[1] == said.split("differs in")[1]


def test_no_text_of_a_row_is_remembered(project: Project) -> None:
    project.run("--finetune")
    (run,) = (project.path / ".finetune" / "records").glob("*/run.json")
    text = run.read_text(encoding="utf-8")
    assert "held-out case" not in text
    assert json.loads(text)["experiment"]["rules"]["label"]["scores"]["tuned"]


def test_fifty_runs_are_shown_from_their_manifests_and_without_torch(tmp_path: Path) -> None:
    store = Store(tmp_path / ".finetune")
    about = {"experiment": "<i>x</i>", "verdict": "keep", "primary": "label", "rate": 0.5, "gain": "\x1b[31m"}
    for number in range(50):
        created = f"2026-01-01T00:00:{number:02d}+00:00"
        store.commit("records", f"run-{number}", lambda folder: _write(folder), {**about, "created": created})
    code = (
        "import sys; from pytest_finetune.cli import main; opened = [];"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None);"
        "code = main(sys.argv[1:]);"
        "print(sum(file.endswith('run.json') for file in opened), 'torch' in sys.modules); sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "history", "--rootdir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    *lines, last = done.stdout.splitlines()
    assert (done.returncode, lines[-1]) == (0, "50 runs: 50 keep"), done.stderr
    assert "\x1b" not in done.stdout
    assert last == "0 False"
    page = subprocess.run([*words, "--html"], capture_output=True, text=True, timeout=240).stdout
    assert "&lt;i&gt;x&lt;/i&gt;" in page
    assert "<i>" not in page


def _write(folder: Path) -> None:
    (folder / "run.json").write_text("{}")
