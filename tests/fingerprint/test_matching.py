"""What transformers reports of a loading, in words: refused, or noted where it does no harm."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_finetune.fingerprint import Match

MODULES = {
    "model",
    "model.embed_tokens",
    "model.layers",
    "model.layers.0",
    "model.layers.0.self_attn",
    "model.layers.0.self_attn.q_proj",
    "model.norm",
    "lm_head",
}


def match(**found: Any) -> Match:
    return Match(tensors=21, modules=MODULES, **found)


def test_a_whole_model_is_no_trouble_and_no_note() -> None:
    assert match().trouble is None
    assert match().notes == ()


def test_missing_tensors_are_counted_and_named() -> None:
    missing = [f"model.layers.{number}.mlp.up_proj.weight" for number in range(5)]
    assert match(missing=missing).trouble == (
        "5 of 21 tensors are not in the files (model.layers.0.mlp.up_proj.weight, model.layers.1.mlp.up_proj.weight, "
        "model.layers.2.mlp.up_proj.weight and 2 more), and transformers would fill them with random numbers: download "
        "it again, or save the whole model again"
    )


def test_a_shape_of_another_model_is_said_with_both() -> None:
    trouble = match(mismatched=[("model.embed_tokens.weight", (60, 32), (64, 32))]).trouble
    assert trouble == (
        "1 of 21 tensors have another shape in the files than in the model of its config.json "
        "(model.embed_tokens.weight: [60, 32] and [64, 32]): take config.json and weights of the same model"
    )


def test_the_head_of_another_task_is_named_beside_the_one_that_is_missing() -> None:
    assert match(missing=["lm_head.weight"], unexpected=["score.weight"]).trouble == (
        "1 of 21 tensors are not in the files (lm_head.weight), and transformers would fill them with random numbers (the "
        "files hold score.weight instead): take config.json and weights of the same model"
    )


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.norm.weight_scale",
        "lm_head.bias",
    ],
)
def test_a_tensor_that_the_model_should_have_used_is_refused(name: str) -> None:
    assert f"has no place for 1 tensor of the files ({name}), which would be left out" in str(
        match(unexpected=[name]).trouble
    )


def test_parts_beside_the_language_model_are_noted() -> None:
    beside = ["vision_tower.encoder.layers.0.weight", "vision_tower.post.weight", "model.visual.x.weight"]
    found = match(unexpected=[*beside, "score.weight"])
    assert found.trouble is None
    assert found.notes == (
        "left out, as no part of the base's language model: 4 tensors of its files (model.visual, score.weight, "
        "vision_tower.encoder and 1 more)",
    )


def test_buffers_that_are_computed_now_are_not_worth_a_word() -> None:
    found = match(
        unexpected=["model.layers.0.self_attn.rotary_emb.inv_freq", "transformer.h.0.attn.masked_bias"]
    )
    assert found.trouble is None
    assert found.notes == ()


def test_heads_that_predict_further_tokens_may_lie_behind_the_last_layer() -> None:
    name = ["model.layers.1.eh_proj.weight"]
    assert match(unexpected=name).trouble is not None
    assert match(unexpected=name, further_layers=1).trouble is None


def test_a_wrapper_is_recognised_where_everything_is_missing() -> None:
    trouble = match(missing=["lm_head.weight"], unexpected=["base_model.model.lm_head.weight"]).trouble
    assert str(trouble).startswith("was saved from a wrapper (PEFT)")
