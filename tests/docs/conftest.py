"""The files that a page shows, a base to train, and a request for a training of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_finetune.data.formatting import format_pair
from pytest_finetune.data.rows import read_rows
from pytest_finetune.experiment import load_experiment
from pytest_finetune.training.request import TrainingRequest
from tests.training.conftest import build_base

DOCS = Path(__file__).parents[2] / "docs"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
EXPERIMENT = """\
task: tickets
base_model: base
peft_method: lora
lora: {r: 4, alpha: 8}
training: {max_seq_length: 128, per_device_train_batch_size: 4, gradient_accumulation_steps: 1, max_steps: 3}
prompt: {template: chat}
paths: {train_file: data/train.jsonl, eval_file: eval/check.jsonl}
"""
PLACES = ("stairs", "printer", "lamp", "door", "desk", "screen", "chair", "phone", "lift", "window")


def rows(count: int, first: int) -> str:
    """Return tickets whose priority is told by their first word."""
    told = []
    for at in range(first, first + count):
        burns = at % 2 == 0
        text = f"{'fire' if burns else 'dust'} near the {PLACES[at % 10]} of room {at}"
        told.append({"instruction": "Priority?", "input": text, "output": "high" if burns else "low"})
    return "".join(json.dumps(row) + "\n" for row in told)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a chat template; tests only read it."""
    return build_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def page_files(tmp_path: Path, base: Path) -> Callable[[str], Path]:
    """Write the files that a page shows into a project with sixty-four rows to train on and forty held out."""

    def write(page: str) -> Path:
        (tmp_path / "base").symlink_to(base, target_is_directory=True)
        text = (DOCS / page).read_text(encoding="utf-8")
        shown = dict(re.findall(r"```\w+\n# ([\w./-]+\.\w+)\n(.*?)```", text, re.DOTALL))
        given = {
            "finetune.yaml": EXPERIMENT,
            "data/train.jsonl": rows(64, 0),
            "eval/check.jsonl": rows(40, 100),
        }
        for name, content in {**given, **shown}.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def request_of() -> Callable[[Path], TrainingRequest]:
    """Return what a trainer is asked in a project."""

    def make(project: Path) -> TrainingRequest:
        experiment = load_experiment(project, "finetune.yaml")
        train = read_rows(project, "data/train.jsonl", "train")
        pairs = tuple(format_pair(row, experiment.prompt) for row in train)
        folder = project / "adapter"
        folder.mkdir()
        places = tuple(f"{row.file}:{row.line}" for row in train)
        return TrainingRequest(
            experiment, pairs, places, str(project / "base"), folder, project / "checkpoints"
        )

    return make
