"""What was loaded is what was named: real transformers on tiny bases whose files are spoilt on purpose."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.data.formatting import Pair
from pytest_finetune.training.base import BaseSource
from pytest_finetune.training.loading import from_pretrained
from pytest_finetune.training.request import TrainingError, TrainingRequest
from pytest_finetune.training.sft import train
from pytest_finetune.training.surroundings import surroundings

Ask = Callable[..., TrainingRequest]
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_base, tmp_path / "base")


def load(folder: Path, **source: Any) -> Any:
    from pytest_finetune.training.model import load_base

    with surroundings(offline=True):
        return load_base(BaseSource(str(folder), **source), "cpu")


def refused(folder: Path, **source: Any) -> str:
    with pytest.raises(TrainingError) as caught:
        load(folder, **source)
    return str(caught.value)


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def save(folder: Path, found: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_missing_tensor_is_never_filled_in(base: Path) -> None:
    found = tensors(base)
    del found[UP]
    save(base, found)
    assert (
        f"base model {str(base)!r}: 1 of 21 tensors are not in the files ({UP}), and transformers would fill them"
        in refused(base)
    )


def test_a_configuration_of_another_model_is_named_with_both_shapes(base: Path) -> None:
    configure(base, vocab_size=333)
    assert "2 of 21 tensors have another shape in the files than in the model of its config.json" in refused(
        base
    )


def test_weights_of_another_architecture_are_refused(base: Path) -> None:
    found = tensors(base)
    save(base, found | {UP.replace("mlp.up_proj.weight", "self_attn.q_proj.bias"): found[UP][0].clone()})
    assert "has no place for 1 tensor of the files (model.layers.1.self_attn.q_proj.bias)" in refused(base)


def test_a_configuration_with_fewer_layers_than_the_files_is_refused(base: Path) -> None:
    configure(base, num_hidden_layers=1)
    assert "has no place for 9 tensors of the files (model.layers.1." in refused(base)


def test_a_vision_tower_is_left_out_with_a_note(base: Path) -> None:
    found = tensors(base)
    save(base, found | {"vision_tower.encoder.weight": found[UP].clone()})
    assert load(base).notes == (
        "left out, as no part of the base's language model: 1 tensor of its files (vision_tower.encoder)",
    )


def test_a_pad_token_without_an_embedding_is_not_padded_with(base: Path, ask: Ask) -> None:
    from transformers import AutoTokenizer

    from pytest_finetune.answering.prompts import Prompted
    from pytest_finetune.answering.runtimes.transformers import TransformersRuntime
    from pytest_finetune.experiment import Generation

    asked = [Prompted("a", 1, "1 and 2"), Prompted("b", 2, "1")]
    before = [
        one.response for one in TransformersRuntime(str(base)).answer(asked, Generation(max_new_tokens=4))
    ]
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})  # and the embeddings stay as they are
    tokenizer.save_pretrained(base)
    runtime = TransformersRuntime(str(base))
    assert [one.response for one in runtime.answer(asked, Generation(max_new_tokens=4))] == before
    pairs = (Pair("1 and 2", " 3"), Pair("1", " 1"), Pair("12 and 3", " 15"), Pair("7", " 7"))
    assert train(ask(base=str(base), pairs=pairs)).final_loss is not None


def test_a_tokenizer_without_a_vocabulary_is_no_empty_one(base: Path, ask: Ask) -> None:
    (base / "tokenizer.json").unlink()
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(
        TrainingError, match="its tokenizer knows no words, since the file of its vocabulary is not"
    ):
        train(ask(base=str(base)))


def test_a_tokenizer_that_cannot_be_read_is_not_told_as_a_configuration(base: Path, ask: Ask) -> None:
    (base / "tokenizer.json").write_text("{}")
    with pytest.raises(
        TrainingError, match=r"cannot be loaded: transformers can make nothing of its tokenizer's files"
    ):
        train(ask(base=str(base)))


def test_a_leftover_adapter_never_answers_for_the_base(base: Path, ask: Ask) -> None:
    (base / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(TrainingError, match="holds a model and an adapter"):
        train(ask("again", base=str(base)))
    assert "holds a model and an adapter" in refused(base)


def test_a_base_in_block_fp8_is_read_with_its_scales(base: Path, ask: Ask) -> None:
    import torch

    plain = tensors(base)
    stored = {}
    for name, tensor in plain.items():
        stored[name] = tensor
        if "_proj" in name:
            rows, columns = tensor.shape
            blocks = tensor.reshape(rows // 16, 16, columns // 16, 16)
            scale = blocks.abs().amax((1, 3)) / 448
            stored[name] = (blocks / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale
    save(base, stored)
    fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}
    configure(base, quantization_config={**fp8, "modules_to_not_convert": ["lm_head"]})
    model = load(base).model
    assert model.state_dict()[UP].dtype is torch.float32
    torch.testing.assert_close(model.state_dict()[UP], plain[UP], rtol=0.07, atol=1e-4)
    assert getattr(model.config, "quantization_config", None) is None
    assert train(ask(base=str(base))).final_loss is not None
    assert "is stored in fp8 already, and cannot be stored in nf4 on top of it" in refused(
        base, quantization="nf4"
    )


def test_a_base_in_four_bits_is_taken_as_it_is_and_only_by_qlora(base: Path, ask: Ask) -> None:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    with surroundings(offline=True):
        AutoModelForCausalLM.from_pretrained(base, quantization_config=four).save_pretrained(base)
    with pytest.raises(
        TrainingError, match="peft_method: lora needs the base in plain weights: write peft_method: qlora"
    ):
        train(ask(base=str(base)))
    assert load(base, quantization="nf4").model.get_parameter(UP).dtype is torch.uint8
    assert train(ask(base=str(base), method="qlora", quantization="nf4")).final_loss is not None
    assert "is stored in bitsandbytes 4-bit already, and cannot be stored in int8" in refused(
        base, quantization="int8"
    )


def test_floats_of_eight_bits_without_scales_are_plain_numbers(base: Path) -> None:
    import torch

    plain = tensors(base)
    save(base, {name: tensor.to(torch.float8_e4m3fn) for name, tensor in plain.items()})
    torch.testing.assert_close(load(base).model.state_dict()[UP], plain[UP], rtol=0.07, atol=2e-3)


SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WITHOUT_SDPA: dict[str, dict[str, Any]] = {
    "gemma2": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 8},
    "gpt_oss": {
        **SMALL,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {**SMALL},
    "mamba2": {**SMALL, "num_heads": 8, "head_dim": 8, "n_groups": 1, "time_step_limit": [0.0, float("inf")]},
}


def made(kind: str, base: Path) -> Path:
    """Put a random model of an architecture in the place of the base's."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with surroundings(offline=True):
        config = AutoConfig.for_model(kind, **WITHOUT_SDPA[kind])
        AutoModelForCausalLM.from_config(config).save_pretrained(base)
    return base


@pytest.mark.parametrize("kind", WITHOUT_SDPA)
def test_an_architecture_without_sdpa_is_loaded_with_what_it_has(kind: str, base: Path) -> None:
    assert load(made(kind, base)).model.config._attn_implementation == "eager"


def test_weights_in_mxfp4_are_read_into_plain_ones(base: Path) -> None:
    import torch

    plain = tensors(made("gpt_oss", base))
    stored = {}
    for name, tensor in plain.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            stored[name] = tensor
            continue
        experts, inner, outer = tensor.shape
        stored[f"{name}_blocks"] = torch.full(
            (experts, outer, inner // 32, 16), 0x22, dtype=torch.uint8
        )  # 1.0, twice
        stored[f"{name}_scales"] = torch.full(
            (experts, outer, inner // 32), 126, dtype=torch.uint8
        )  # 2 ** -1
    save(base, stored)
    configure(base, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    weight = load(base).model.get_parameter("model.layers.0.mlp.experts.down_proj")
    assert weight.shape == plain["model.layers.0.mlp.experts.down_proj"].shape
    assert torch.equal(weight, torch.full_like(weight, 0.5))


def test_the_attention_that_is_asked_for_is_used_or_refused_in_one_sentence(base: Path) -> None:
    assert load(base).model.config._attn_implementation == "sdpa"
    assert load(base, attention="eager").model.config._attn_implementation == "eager"
    made("gemma2", base)
    assert refused(base, attention="sdpa").startswith(
        f"base model {str(base)!r} cannot be loaded with attn_implementation: sdpa: Gemma2ForCausalLM does not support"
    )
    assert refused(base, attention="flash_attention_2").endswith(
        "leave it out: what the architecture can do is chosen then (sdpa, else eager)"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": "abc"}, "Field 'hidden_size' expected int, got str"),
        ({"num_attention_heads": 5}, "is not a multiple of the number of attention heads (5)"),
        ({"model_type": "llama9"}, "llama9"),
        ({"model_type": "t5"}, "transformers knows no causal language model of its architecture (T5Config)"),
    ],
)
def test_a_configuration_that_describes_no_model_is_refused_with_its_reason(
    base: Path, changes: dict[str, Any], said: str
) -> None:
    configure(base, **changes)
    message = refused(base)
    assert message.startswith(f"base model {str(base)!r} cannot be loaded: ")
    assert said in message


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "generation_config.json",
            '{"max_new_tokens": -5}',
            "its generation_config.json holds what transformers refuses",
        ),
        ("generation_config.json", "{", "generation_config.json in '{}' is not readable JSON"),
    ],
)
def test_settings_of_the_generation_that_cannot_be_are_refused(
    base: Path, name: str, text: str, said: str
) -> None:
    (base / name).write_text(text)
    assert said.replace("{}", str(base)) in refused(base)


def test_a_tokenizer_that_cannot_be_read_is_refused_with_its_reason(base: Path) -> None:
    from pytest_finetune.training.model import load_tokenizer

    (base / "tokenizer.json").write_text("{}")
    with pytest.raises(TrainingError, match="cannot be loaded: "), surroundings(offline=True):
        load_tokenizer(BaseSource(str(base)))


def test_what_transformers_warns_of_while_loading_is_kept(base: Path) -> None:
    configure(base, tie_word_embeddings=True)
    assert any("tied weights" in note for note in load(base).notes)


def test_rows_that_the_model_cannot_take_are_named_before_the_first_step(
    ask: Ask, base_builder: Callable[..., Path], tmp_path: Path
) -> None:
    short = base_builder(tmp_path / "short", context=16)
    with pytest.raises(TrainingError) as caught:
        train(ask(base=str(short)))
    assert "training rows are longer than the model's 16 positions\n  data/train.jsonl:1 (" in str(
        caught.value
    )
    assert "lower training.max_seq_length to 16" in str(caught.value)
    few = tmp_path / "few"
    shutil.copytree(base_builder(tmp_path / "whole"), few)
    found = tensors(few)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        found[name] = found[name][:40].clone()
    save(few, found)
    configure(few, vocab_size=40)
    with pytest.raises(TrainingError, match="hold tokens for which the model has no embedding: it has 40"):
        train(ask(base=str(few)))


def test_weights_are_read_in_turn_while_they_are_quantised_and_the_environment_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str | None] = []

    class Kind:
        @staticmethod
        def from_pretrained(name: str, **settings: object) -> None:
            seen.append(os.environ.get("HF_DEACTIVATE_ASYNC_LOAD"))

    source = BaseSource("acme/base")
    for before in (None, "0"):
        monkeypatch.delenv("HF_DEACTIVATE_ASYNC_LOAD", raising=False)
        if before is not None:
            monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", before)
        from_pretrained(Kind, source)
        from_pretrained(Kind, source, quantization_config={"load_in_4bit": True})
        assert os.environ.get("HF_DEACTIVATE_ASYNC_LOAD") == before
    assert seen == [None, "1", "0", "1"]
