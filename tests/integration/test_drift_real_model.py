"""Drift of a real, tiny model in a whole session: its probabilities are read once, and a stored run needs no torch."""

from __future__ import annotations

import pytest

from tests.training.conftest import build_base

from .conftest import make_project

# A drawn adapter in place of a trained one: what is tested is a real model that answers and tells its probabilities.
DRAWN = """\
from pytest_finetune.training.request import TrainingResult

def pytest_finetune_train(request):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(request.base, dtype=torch.float32)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(request.folder)
    return TrainingResult(folder=request.folder, steps=1, seconds=0.1, final_loss=1.0, log=({"step": 1, "loss": 1.0},),
                          peak_bytes=None, trainable=1, parameters=1, tokens={})

def pytest_sessionfinish():
    import sys
    print("\\nheavy:", *sorted({"torch", "transformers", "peft"} & set(sys.modules)) or ["none"])
"""


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
def test_a_real_model_is_measured_once_and_a_stored_run_decides_without_torch(
    pytester: pytest.Pytester,
) -> None:
    project = make_project(pytester, rows=8)
    project.write({"conftest.py": DRAWN})
    build_base(project.path / "base", layers=1, hidden=32, context=512)
    file = project.path / "finetune.yaml"
    file.write_text(file.read_text().replace('prompt: {template: "{input} ->", few_shot: 0}\n', ""))
    first = project.run("--finetune", "-s")
    first.stdout.fnmatch_lines(["heavy: peft torch transformers"])
    drift = project.experiment()["drift"]
    assert (drift["outcome"], drift["prompts"], drift["kl_reason"]) == ("measured", 40, None)
    assert 0 < drift["mean_kl"] < drift["max_kl"]
    assert drift["tokens"] == sum(row["tokens"] for row in drift["rows"]) <= 40 * 8
    second = project.run("--finetune", "-s", subprocess=True)
    second.stdout.fnmatch_lines(["heavy: none"])
    assert project.experiment()["drift"] == drift
