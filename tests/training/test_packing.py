"""Packed rows must stay apart: measured on the model itself, before the first step."""

from __future__ import annotations

import json

import pytest

from benchmarks.family_shapes import SHAPES
from pytest_finetune.memory.tracer.architectures import auto_class
from pytest_finetune.training.packing import check_packing
from pytest_finetune.training.request import TrainingError

ROWS = [list(range(5, 40)), list(range(60, 100))]


def packed(name: str) -> None:
    import torch
    from transformers import AutoConfig
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    tree = json.loads(json.dumps({**SHAPES[name], "vocab_size": 300, "pad_token_id": 0}))
    config = AutoConfig.for_model(tree.pop("model_type"), **tree)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto_class(config).from_config(config)
    check_packing(model, DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True), ROWS)
    assert model.training


@pytest.mark.parametrize("name", ["Llama", "GPT-2"])
def test_rows_stay_apart(name: str) -> None:
    packed(name)


def test_positions_that_run_on_are_told_with_how_far_they_move_a_row() -> None:
    with pytest.raises(TrainingError) as caught:
        packed("OPT")
    assert str(caught.value).startswith(
        "training.packing: true cannot be used with this model, which does not keep packed rows apart: "
        "a row's logits move by up to "
    )


def test_a_model_that_refuses_packs_itself_is_told_in_its_words() -> None:
    with pytest.raises(TrainingError, match=r"can't keep packed sequences apart .*\n  leave packing out"):
        packed("LFM2")
