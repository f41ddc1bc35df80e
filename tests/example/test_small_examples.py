"""The small examples: their data keeps its contract, and calls and turns come through a whole session."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LEFT = shutil.ignore_patterns("models", ".finetune", "finetune-record", "artifacts", "__pycache__")


def ran(name: str, folder: Path) -> Any:
    """Train an example for two steps and judge it; return its record."""
    project = shutil.copytree(ROOT / "examples" / name, folder / "examples" / name, ignore=LEFT)
    (folder / "example_project").symlink_to(ROOT / "example_project")
    runpy.run_path(str(project / "make_base_model.py"), run_name="__main__")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    asked = ["--finetune", "--finetune-set=training.max_steps=2", "-p", "no:cacheprovider", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *asked],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    record = project / "finetune-record" / "record.json"
    assert record.is_file(), done.stdout + done.stderr
    return json.loads(record.read_text())["experiments"][0]


def test_calls_of_tools_are_taught_and_judged(tmp_path: Path) -> None:
    told = ran("tools", tmp_path)
    assert (told["data"]["findings"], told["training"]["steps"]) == ([], 2)
    table = told["rules"]["tool"]["confusion"]["baseline"]
    assert {expected: sum(given.values()) for expected, given in table.items()} == {
        "assign": 8, "close": 4, "no call": 4, "prioritise": 8,
    }  # fmt: skip
    answers = told["rules"]["arguments"]["messages"]["baseline"]
    assert any(text.startswith("not parsed: no call in ") for text in answers.values()), answers


def test_a_conversation_is_taught_in_whole_and_asked_turn_by_turn(tmp_path: Path) -> None:
    told = ran("conversation", tmp_path)
    assert (told["data"]["findings"], told["training"]["steps"]) == ([], 2)
    rule = told["rules"]["answer"]
    assert rule["rows"][:2] == ["e01#1", "e01#2"]
    assert rule["groups"][:2] == ["e01", "e01"]
    assert (len(rule["rows"]), len(set(rule["groups"])), rule["cluster"]) == (32, 16, "group")
    asked = {row["id"]: row["expected"] for row in told["held_out"]}
    assert asked["e01#1"] == "Which office are you in?"
    assert json.loads(asked["e01#2"]).keys() == {"device", "office"}
