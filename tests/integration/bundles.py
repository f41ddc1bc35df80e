"""A promoted bundle of the small project, and the tools of somebody who edits one and mends every digest after it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_finetune.evaluation.answers import read_answers
from pytest_finetune.record import bundle_manifest
from pytest_finetune.record.bundle_manifest import MANIFEST, describe
from pytest_finetune.record.card import model_card
from pytest_finetune.record.note import decision_note
from pytest_finetune.record.page import summary_html
from pytest_finetune.record.statement import STATEMENT, statement, statement_json
from pytest_finetune.record.write import record_json

from .conftest import Project, make_project

FIT = """\
import pytest

@pytest.mark.oom_fit
def test_fits(experiment):
    assert experiment.training.max_seq_length < 4096
"""


def new_project(root: Path, *, few_shot: int = 0) -> Project:
    """Build the small project in `root`, with a test of every stage that a promotion wants to see."""
    root.mkdir(parents=True, exist_ok=True)
    place = cast(pytest.Pytester, SimpleNamespace(path=root))  # only its path is used
    project = make_project(place, few_shot=few_shot)
    project.write({"test_fit.py": FIT, "pytest.ini": "[pytest]\n"})
    return project


def promote(project: Project, *args: str) -> Path:
    """Run the project in a process of its own and return the bundle."""
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--finetune",
        "--finetune-promote",
        *args,
    ]
    done = subprocess.run(words, cwd=project.path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return project.path / "artifacts" / "adapter"


def doctor(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record and make everything agree with it again, by the package's own means."""
    file = bundle / "record.json"
    before = json.loads(file.read_bytes())
    record = json.loads(file.read_bytes())
    change(record)
    page = bundle / "report.html"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(_fragment(bundle, before), _fragment(bundle, record)), encoding="utf-8")
    file.write_text(record_json(record), encoding="utf-8")
    (bundle / "decision.md").write_text(decision_note(record), encoding="utf-8")
    mend(bundle)


def mend(bundle: Path) -> None:
    """Write card, statement and manifest anew over whatever the files now hold."""
    record = json.loads((bundle / "record.json").read_bytes())
    (experiment,) = record["experiments"]
    tree = json.loads((bundle / MANIFEST).read_bytes())
    (bundle / "README.md").write_text(model_card(record, experiment, tree["revision"]), encoding="utf-8")
    named = {name: facts["sha256"] for name, facts in describe(bundle).items() if name != STATEMENT}
    content = statement(record, experiment, tree["revision"], named)
    (bundle / STATEMENT).write_bytes(statement_json(content))
    seal(bundle)


def seal(bundle: Path, **changes: object) -> None:
    """Write only the manifest anew."""
    tree = json.loads((bundle / MANIFEST).read_bytes())
    body = {name: value for name, value in tree.items() if name != "digest"}
    body |= {"files": describe(bundle), **changes}
    (bundle / MANIFEST).write_bytes(bundle_manifest.render(body))


def _fragment(bundle: Path, record: dict[str, Any]) -> str:
    answers = {
        one["name"]: {
            arm: [asdict(answer) for answer in read_answers(bundle / facts["outputs"])]
            for arm, facts in one["arms"].items()
        }
        for one in record["experiments"]
    }
    return summary_html(record, answers)
