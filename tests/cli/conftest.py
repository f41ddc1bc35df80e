"""A small project and a way to run one command on it, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_finetune.cli import main

EXPERIMENT = """\
task: priority
base_model: model
peft_method: lora
lora: {r: 4}
training: {max_seq_length: 128, per_device_train_batch_size: 2, gradient_accumulation_steps: 1}
prompt: {template: "{input} ->"}
paths: {train_file: train.jsonl, eval_file: eval.jsonl, contract_file: contract.yaml}
"""

CONTRACT = """\
output: {format: json}
labels: {field: label}
"""

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
}


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def tree(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class World:
    """A project folder; `run` is the command line in it."""

    root: Path
    run: Callable[..., Ran]

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text, encoding="utf-8")

    def rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        self.write(name, "".join(json.dumps(row) + "\n" for row in rows))


def row(text: str, label: str, key: str = "output", **more: object) -> dict[str, Any]:
    return {"instruction": "Classify.", "input": text, key: json.dumps({"label": label}), **more}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*words: object) -> Ran:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture
def world(tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> World:
    """Twelve training rows, forty held-out rows, a model of which only the configuration is here."""
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path, run)
    world.write("finetune.yaml", EXPERIMENT)
    world.write("contract.yaml", CONTRACT)
    world.write("model/config.json", json.dumps(CONFIG))
    world.rows("train.jsonl", [row(f"ticket {n}", "high" if n % 3 else "low") for n in range(12)])
    world.rows("eval.jsonl", [row(f"held-out {n}", "high", "expected") for n in range(40)])
    return world
