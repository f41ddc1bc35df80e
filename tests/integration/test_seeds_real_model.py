"""Adapters of three seeds on a real, tiny model: answered in one load of the base, and decided again without torch."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_finetune.training import model
from tests.training.conftest import build_base

from .conftest import make_project

# Drawn adapters in place of trained ones: what is tested is that each is put on the base and taken off again.
DRAWN = """\
import pytest
from pytest_finetune.training.request import TrainingResult

def pytest_finetune_train(request):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(request.seed)
    base = AutoModelForCausalLM.from_pretrained(request.base, dtype=torch.float32)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(request.folder)
    return TrainingResult(folder=request.folder, steps=1, seconds=0.1, final_loss=1.0, log=({"step": 1, "loss": 1.0},),
                          peak_bytes=None, trainable=1, parameters=1, tokens={})

def pytest_sessionfinish():
    import sys
    print("\\nheavy:", *sorted({"torch", "transformers", "peft"} & set(sys.modules)) or ["none"])
"""
RULES = """\
import pytest

@pytest.mark.eval_rule(primary=True)
def test_letters(response, score):
    score(sum(map(str.isalpha, response.text)) / max(len(response.text), 1))
"""
SEEDS = "{num_train_epochs: 1, seeds: [0, 1, 2]}"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft 0.21
def test_three_seeds_answer_in_one_load_and_a_stored_run_needs_no_torch(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    real = model.load_model

    def load(*given: Any) -> Any:
        loaded.append(given)
        return real(*given)

    monkeypatch.setattr(model, "load_model", load)
    project = make_project(pytester, rows=8)
    project.write({"conftest.py": DRAWN, "test_rules.py": RULES})
    build_base(project.path / "base", layers=1, hidden=32, context=512)
    file = project.path / "finetune.yaml"
    text = file.read_text().replace('prompt: {template: "{input} ->", few_shot: 0}\n', "drift: false\n")
    file.write_text(text.replace("{num_train_epochs: 1}", SEEDS))
    project.run("--finetune", "-s")
    assert len(loaded) == 1
    first = project.experiment()
    seeds = first["recipe"]["seeds"]
    assert len({one["adapter_sha256"] for one in seeds}) == 3
    assert len({first["arms"][f"seed {one['seed']}"]["answers_sha256"] for one in seeds}) == 3
    assert first["arms"]["seed 0"]["answers_sha256"] == first["arms"]["tuned"]["answers_sha256"]
    assert len(set(first["recipe"]["rules"]["letters"]["rates"])) > 1
    second = project.run("--finetune", "-s", subprocess=True)
    second.stdout.fnmatch_lines(["heavy: none"])
    again = project.experiment()
    assert all(one["reused"] for one in again["recipe"]["seeds"])
    assert again["recipe"]["rules"] == first["recipe"]["rules"]
