"""The second example: its rows keep their contract, and the real base model goes through a whole session."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.data.contract import Contract
from pytest_finetune.data.rows import read_rows
from pytest_finetune.data.splitting import set_aside

BANKING = Path(__file__).parents[2] / "examples" / "banking"
BASE = BANKING / "models" / "smollm2-135m-instruct"


def test_the_rows_keep_the_contract_and_are_as_many_as_the_page_says() -> None:
    train, held_out = (
        read_rows(BANKING, "data/train.jsonl", "train"),
        read_rows(BANKING, "eval/check.jsonl", "eval"),
    )
    contract = Contract.load(BANKING, "data/contract.yaml")
    assert contract.findings(train, held_out) == []
    kept, _ = set_aside(train, 0.2, contract.label_of)  # as `make banking-curve` does
    assert contract.findings(kept, held_out) == []
    for rows, each in ((train, 20), (held_out, 12)):
        assert set(Counter(row.expected_json()["intent"] for row in rows).values()) == {each}
    teams = {row.expected_json()["intent"]: row.expected_json()["team"] for row in train}
    assert all(teams[row.expected_json()["intent"]] == row.expected_json()["team"] for row in held_out)


@pytest.mark.skipif(
    not (BASE / "config.json").exists(),
    reason="make banking has not made the base model (make_base_model.py)",
)
def test_the_real_model_is_asked_trained_and_judged(tmp_path: Path) -> None:
    for folder in ("data", "tests"):
        shutil.copytree(BANKING / folder, tmp_path / folder)
    contract = (BANKING / "data" / "contract.yaml").read_text().splitlines()
    few = [
        line for line in contract if not line.startswith(("labels:", "rows:"))
    ]  # six rows are held out here
    (tmp_path / "data" / "contract.yaml").write_text("\n".join([*few, "labels: {field: intent}"]) + "\n")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / BASE.name).symlink_to(BASE)
    text = (BANKING / "finetune.yaml").read_text()
    text = text.replace("num_train_epochs: 1", "max_steps: 2").replace(
        "max_new_tokens: 32", "max_new_tokens: 8"
    )
    (tmp_path / "finetune.yaml").write_text(text.replace("few_shot: 4", "few_shot: 1") + "drift: false\n")
    lines = (BANKING / "eval" / "check.jsonl").read_text().splitlines()[:6]
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "check.jsonl").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "pytest", "--finetune", "-p", "no:cacheprovider", "tests/test_rules.py"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1, done.stdout + done.stderr  # two steps teach nothing
    (experiment,) = json.loads((tmp_path / "finetune-record" / "record.json").read_text())["experiments"]
    assert experiment["training"]["steps"] == 2, done.stdout
    assert experiment["training"]["delta_nonzero"] is True
    answers = {arm: outputs(tmp_path, arm) for arm in ("baseline", "prompted", "constrained", "tuned")}
    assert {arm: len(found) for arm, found in answers.items()} == dict.fromkeys(answers, 6)
    assert all("<|im_start|>assistant" in one["prompt"] for one in answers["baseline"])
    assert len({one["response"] for one in answers["baseline"]}) > 1


def outputs(root: Path, arm: str) -> list[dict[str, Any]]:
    text = (root / "finetune-record" / "outputs" / f"{arm}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
