"""A base that only answers, as an arm from outside: looked at before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.arm_plans import planned
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.experiment import load_experiment
from pytest_finetune.store import Store
from pytest_finetune.suite.steps.external_arms import Outside, Project, outside_of
from tests.fingerprint.test_folder import LLAMA, save


def larger(root: Path, arm: str, config: dict[str, Any]) -> Outside:
    (root / "finetune.yaml").write_text(
        "base_model: base\npeft_method: qlora\nlora: {r: 4}\ntraining: {max_steps: 3}\n"
        f"paths: {{train_file: train.jsonl, eval_file: eval.jsonl}}\narms: {{larger: {arm}}}\n"
    )
    for name in ("train.jsonl", "eval.jsonl"):
        (root / name).touch()
    for name in ("base", "larger"):
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
        save(root / name / "model.safetensors", LLAMA)
    experiment = load_experiment(root, "finetune.yaml")
    nothing: Any = None
    project = Project(experiment, Store(root / "store"), lambda: nothing, nothing)
    return outside_of(project, planned(experiment)["larger"])


FP8 = {"quantization_config": {"quant_method": "fp8"}}
BNB4 = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4}}


@pytest.mark.parametrize(
    ("arm", "config"),
    [
        ("{base_model: larger}", {}),
        ("{base_model: larger}", BNB4),
        ("{base_model: larger, quantization: none}", FP8),
        ("{base_model: larger, quantization: none}", GPTQ),
    ],
    ids=["plain", "4 bits", "fp8", "gptq"],
)
def test_a_base_that_answers_may_be_stored_in_any_way(
    tmp_path: Path, arm: str, config: dict[str, Any]
) -> None:
    experiment = larger(tmp_path, arm, config).experiment
    assert experiment is not None
    assert experiment.base_model == "larger"


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        (
            "{base_model: larger}",
            "arms.larger.base_model: 'larger' is stored in fp8 already, and cannot be stored in nf4 on top of it\n"
            "  write quantization: none in the arm: it answers as it is stored",
        ),
        (
            "{base_model: org/elsewhere}",
            "arms.larger.base_model: base model: 'org/elsewhere' is neither a folder",
        ),
    ],
    ids=["twice quantised", "not fetched"],
)
def test_a_base_that_cannot_be_loaded_is_named_by_its_arm(tmp_path: Path, arm: str, said: str) -> None:
    with pytest.raises(AnsweringError) as refusal:
        larger(tmp_path, arm, FP8)
    assert str(refusal.value).startswith(said)
