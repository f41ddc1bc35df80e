"""Which modules carry an adapter in each kind of architecture: meta tensors are enough, nothing is trained."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.family_shapes import SHAPES
from pytest_finetune.memory.tracer.targets import Chosen, TargetError, Wanted, choose
from pytest_finetune.training.coverage import Reached, covered
from pytest_finetune.training.request import TrainingError

pytestmark = pytest.mark.filterwarnings(  # peft 0.21
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning",
    "ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning",
)
PLAIN = Wanted()


def bare(name: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tree = json.loads(json.dumps(SHAPES[name]))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(tree.pop("model_type"), **tree))


def chosen(name: str, *words: str, wanted: Wanted = PLAIN) -> tuple[Any, Chosen]:
    model = bare(name)
    return model, choose(model, words or "all-linear", wanted)


def adapted(name: str, *words: str) -> tuple[list[str], list[str]]:
    """Return the names of the modules that PEFT adapts, and what is said of the others."""
    from peft import LoraConfig, get_peft_model

    model, found = chosen(name, *words)
    config = LoraConfig(
        r=2, target_modules=found.targets, exclude_modules=found.excluded, task_type="CAUSAL_LM"
    )
    wrapped = get_peft_model(model, config)
    said = covered(wrapped, words or "all-linear", found)
    names = [name for name, module in wrapped.get_base_model().named_modules() if hasattr(module, "lora_A")]
    return names, [*found.left_out, *said]


def test_an_architecture_without_surprises_is_asked_for_as_ever() -> None:
    for name in ("Llama", "Falcon", "GPT-2"):
        _, found = chosen(name)
        assert found == Chosen("all-linear", None, ())


def test_of_a_model_that_sees_only_the_language_model_is_adapted_and_the_tower_is_named() -> None:
    names, (said,) = adapted("Gemma 3", "q_proj", "v_proj")
    assert len(names) == 4
    assert all("language_model" in name for name in names)
    assert "model.vision_tower.encoder.layers.*.self_attn.q_proj" in said
    assert "(4 modules): no part of the language model" in said


def test_a_tower_inside_the_decoder_is_found() -> None:
    names, (said,) = adapted("Phi-4-multimodal")
    assert not any("embed_tokens_extend" in name for name in names)
    assert "model.embed_tokens_extend.image_embed" in said


def test_a_tower_alone_is_refused() -> None:
    with pytest.raises(TargetError, match="'fc1', which cannot carry an adapter in this model"):
        chosen("Gemma 3", "fc1")


@pytest.mark.parametrize("name", ["Llama 4, text", "PhiMoE"])
def test_a_router_is_left_out_and_named(name: str) -> None:
    names, said = adapted(name)
    assert not any("router" in name for name in names)
    assert any("router (" in line and "it returns more than its product" in line for line in said)
    assert any(
        "no adapter on the experts' weights" in line and "% of the parameters" in line for line in said
    )


@pytest.mark.parametrize("name", ["Falcon-H1", "Nemotron-H", "Granite-4-H", "Bamba"])
def test_the_projection_that_a_state_space_layer_reads_itself_is_left_out_and_named(name: str) -> None:
    names, said = adapted(name)
    assert names
    assert not any(name.endswith("out_proj") for name in names)
    assert "out_proj (" in said[0]
    assert "reads its weight itself" in said[0]


def test_naming_that_projection_is_refused_with_what_can_be_named() -> None:
    with pytest.raises(TargetError) as caught:
        chosen("Falcon-H1", "q_proj", "out_proj")
    assert "asks for 'out_proj', which cannot carry an adapter in this model" in str(caught.value)
    assert "linear modules here: down_proj, gate_proj, in_proj, k_proj" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "bare_kinds"),
    [
        ("DeepSeek-V3", "model.layers.*.mlp.down_proj, model.layers.*.mlp.gate_proj"),
        ("Qwen3-Next", "model.layers.*.mlp.shared_expert.down_proj"),
    ],
)
def test_names_that_peft_takes_for_the_experts_are_told_where_they_miss(name: str, bare_kinds: str) -> None:
    names, (said,) = adapted(name, "gate_proj", "up_proj", "down_proj")
    assert names
    assert all("experts" in name for name in names)
    assert bare_kinds in said
    assert "PEFT takes these names for the experts' down_proj, gate_up_proj" in said
    assert not said.endswith("weight")


def test_older_names_of_experts_are_known() -> None:
    names, said = adapted("Mixtral", "w1", "w2", "w3")
    assert names
    assert said == []
    with pytest.raises(TargetError, match="Cannot convert PEFT target"):
        chosen("Mixtral", "w1")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Wanted(dropout=0.05), "lora.dropout 0.05"),
        (Wanted(dora=True), "peft_method: dora"),
        (Wanted(start="pissa_niter_4"), "lora.init_lora_weights: pissa_niter_4"),
    ],
)
def test_what_experts_cannot_carry_is_refused(wanted: Wanted, words: str) -> None:
    with pytest.raises(TargetError) as caught:
        chosen("Qwen3-MoE", wanted=wanted)
    assert str(caught.value).startswith(f"{words} cannot go with this model's experts")
    assert "k_proj, o_proj, q_proj, v_proj" in str(caught.value)
    chosen("Qwen3-MoE", "q_proj", wanted=wanted)


@pytest.mark.parametrize(
    ("name", "start", "target", "said"),
    [
        ("Llama", "pissa", "embed_tokens", "'model.embed_tokens', an embedding"),
        ("Llama", "olora", "embed_tokens", "'model.embed_tokens', an embedding"),
        ("GPT-2", "olora", "c_attn", r"a transposed linear module \(Conv1D\)\n  take pissa"),
    ],
)
def test_first_weights_that_a_module_cannot_give_are_refused(
    name: str, start: str, target: str, said: str
) -> None:
    with pytest.raises(TargetError, match=said):
        chosen(name, target, wanted=Wanted(start=start))


def test_first_weights_of_more_directions_than_a_module_has_are_refused() -> None:
    chosen("Llama", "k_proj", wanted=Wanted(start="olora", rank=32))
    chosen("Llama", "k_proj", wanted=Wanted(rank=33))
    said = r"takes lora\.r = 33 directions out of each weight, and model\.layers\.0\.self_attn\.k_proj has 32: such"
    with pytest.raises(TargetError, match=said):
        chosen("Llama", "k_proj", wanted=Wanted(start="pissa_niter_4", rank=33))


@pytest.mark.parametrize("word", ["input_layernorm", "layers"])
def test_a_module_that_carries_no_adapter_is_refused(word: str) -> None:
    with pytest.raises(TargetError, match=f"asks for '{word}', which cannot carry an adapter"):
        chosen("Llama", "q_proj", word)


def test_a_name_that_peft_passed_over_is_refused() -> None:
    from peft import LoraConfig, get_peft_model

    model, found = chosen("Llama", "q_proj", "up_proj")
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(TrainingError, match="names 'up_proj', and no module got an adapter by it"):
        covered(wrapped, ("q_proj", "up_proj"), found)


def test_modules_that_no_gradient_reaches_are_named() -> None:
    import torch

    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in ("used", "unused")})
    reached = Reached()
    assert reached.notes() == []
    model["used"](torch.ones(2)).sum().backward()
    reached.look(model)
    assert reached.notes() == [
        "no gradient reached unused (1 module): the loss does not depend on them, so they stay as they were"
    ]
