"""`attn_implementation`: said in the experiment file, carried to the training, and absent where it is not said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_finetune.experiment import Experiment, ExperimentError, load_experiment
from pytest_finetune.experiment.reading import experiment_json, experiment_of


def read(root: Path, line: str = "") -> Experiment:
    (root / "finetune.yaml").write_text(
        f"base_model: models/tiny\n{line}peft_method: lora\nlora: {{r: 4}}\ntraining: {{max_steps: 3}}\n"
        "paths: {train_file: train.jsonl, eval_file: check.jsonl}\n"
    )
    for name in ("train.jsonl", "check.jsonl"):
        (root / name).write_text("")
    return load_experiment(root, "finetune.yaml")


def test_it_travels_to_the_training_where_it_was_said(tmp_path: Path) -> None:
    asked = read(tmp_path, "attn_implementation: eager\n")
    assert asked.resolved["attn_implementation"] == "eager"
    assert experiment_of(json.loads(json.dumps(experiment_json(asked)))).attn_implementation == "eager"
    left = read(tmp_path)
    assert left.attn_implementation is None
    assert "attn_implementation" not in left.resolved  # as in every record and bundle that was made before


@pytest.mark.parametrize("value", ["sdap", "org/kernel"])
def test_another_word_is_refused_with_its_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(ExperimentError, match=rf"finetune\.yaml:2: attn_implementation: .*{value}"):
        read(tmp_path, f"attn_implementation: {value}\n")
