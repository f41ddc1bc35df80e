"""A base that is stored quantised by itself: what it becomes in memory, and which method can train on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.fingerprint import OwnQuantization, base_digest, own_quantization

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
BNB4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}
BNB8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def own(settings: dict[str, Any], key: str = "quantization_config") -> OwnQuantization:
    found = own_quantization({"model_type": "llama", key: settings})
    assert found is not None
    return found


@pytest.mark.parametrize("config", [{}, {"quantization_config": None}, {"quantization_config": {}}])
def test_a_plain_base_has_none(config: dict[str, Any]) -> None:
    assert own_quantization(config) is None


def test_a_model_of_several_parts_may_name_it_with_its_text() -> None:
    found = own_quantization({"text_config": {"quantization_config": FP8}})
    assert found is not None
    assert found.name == "fp8"


@pytest.mark.parametrize(
    ("settings", "quantization", "method", "said"),
    [
        (FP8, "none", "lora", None),
        (FP8, "none", "full", None),
        (
            FP8,
            "nf4",
            "qlora",
            "is stored in fp8 already, and cannot be stored in nf4 on top of it: write peft_method: lora",
        ),
        ({"quant_method": "mxfp4"}, "none", "dora", None),
        (BNB4, "nf4", "qlora", None),
        (
            BNB4,
            "none",
            "lora",
            "peft_method: lora needs the base in plain weights: write peft_method: qlora, which takes",
        ),
        (
            BNB4,
            "none",
            "full",
            "peft_method: full needs every weight as a plain number: write peft_method: qlora",
        ),
        (BNB8, "int8", "lora", None),
        (
            BNB8,
            "nf4",
            "qlora",
            "cannot be stored in nf4 on top of it: write quantization: int8 with peft_method: lora",
        ),
        (BNB8, "none", "lora", "write quantization: int8 with peft_method: lora"),
        (
            {"quant_method": "gptq", "bits": 4},
            "none",
            "lora",
            "is stored in gptq, on which nothing is trained here: name",
        ),
        ({"quant_method": "awq"}, "nf4", "qlora", "is stored in awq, on which nothing is trained here"),
        (
            {"quant_method": "modelopt"},
            "none",
            "lora",
            "is stored in modelopt, on which nothing is trained here",
        ),
        ({"bits": 4}, "none", "lora", "is stored in a quantisation without a name"),
    ],
)
def test_which_method_can_train_on_it(
    settings: dict[str, Any], quantization: str, method: str, said: str | None
) -> None:
    for key in ("quantization_config", "compression_config"):
        found = own(settings, key).untrainable(quantization, method)
        assert (found is None) if said is None else (said in str(found))
        assert found is None or "name the model that it was made from, which is not quantised" in found


def test_a_quantisation_that_a_package_reads_needs_that_package(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = own({"quant_method": "compressed-tensors", "format": "float-quantized"})
    there = "pytest_finetune.fingerprint.quantization.find_spec"
    monkeypatch.setattr(there, lambda name: None)
    assert "pip install compressed-tensors, or name the model that" in str(packed.untrainable("none", "lora"))
    monkeypatch.setattr(there, lambda name: object())
    assert packed.untrainable("none", "lora") is None
    assert "cannot be stored in nf4 on top of it" in str(packed.untrainable("nf4", "qlora"))


def test_an_adapter_that_was_trained_without_the_scales_is_not_taken_for_one_with_them(base: Path) -> None:
    """Only a base that is dequantised has another digest than its files alone would give."""

    def digest_with(settings: object) -> str:
        tree = {"model_type": "llama"} | ({} if settings is None else {"quantization_config": settings})
        (base / "config.json").write_text(json.dumps(tree))
        return base_digest(base).config

    from pytest_finetune.fingerprint import digest

    assert digest_with(None) == digest({"model_type": "llama"})
    assert digest_with(BNB4) == digest({"model_type": "llama", "quantization_config": BNB4})
    assert digest_with(FP8) != digest({"model_type": "llama", "quantization_config": FP8})
