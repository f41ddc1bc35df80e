"""The plan against memory that was measured on a card.

The rows are from fitcheck-llm 0.3.1 (MIT): one LoRA or QLoRA step on a Tesla T4. The shapes are SmolLM2-135M's and
TinyLlama-1.1B's.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SCRIPT: Final = Path(__file__).parents[2] / "benchmarks" / "memory_accuracy.py"
SMOLLM2, TINYLLAMA = "HuggingFaceTB/SmolLM2-135M", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
NEW = "torch 2.14.0+cu130, transformers 5.17.0, peft 0.20.0"
OLD = "torch 2.10.0+cu128, transformers 5.0.0, peft 0.19.1"
SHAPES: Final[dict[str, dict[str, Any]]] = {
    SMOLLM2: {
        "num_params": 134515008,
        "hidden_size": 576,
        "num_layers": 30,
        "num_attention_heads": 9,
        "num_kv_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    TINYLLAMA: {
        "num_params": 1100048384,
        "hidden_size": 2048,
        "num_layers": 22,
        "num_attention_heads": 32,
        "num_kv_heads": 4,
        "intermediate_size": 5632,
        "vocab_size": 32000,
        "head_dim": 64,
        "tie_word_embeddings": False,
    },
}
# model, kernel, quantization, batch, tokens, stack, allocated MiB, reserved MiB, process MiB
MEASURED: Final = (
    (SMOLLM2, "flash", "none", 2, 512, NEW, 1026.919, 1070.0, 1210.875),
    (SMOLLM2, "eager", "none", 1, 4096, NEW, 3180.107, 4476.0, 4616.875),
    (SMOLLM2, "eager", "nf4", 2, 512, NEW, 1067.189, 1192.0, 1332.875),
    (TINYLLAMA, "flash", "nf4", 2, 1024, OLD, 2528.0, 2892.0, 3033.0),
)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory_accuracy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["memory_accuracy"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row[1]}-{row[2]}-{row[3]}x{row[4]}")
def test_measured_peaks_are_met(row: tuple[Any, ...], benchmark: ModuleType) -> None:
    model, kernel, quantization, batch, tokens, stack, allocated, reserved, process = row
    cells = {
        "model": model,
        "kernel": kernel,
        "quantization": quantization,
        "batch_size": str(batch),
        "seq_len": str(tokens),
        "lora_rank": "32",
        "lora_targets": "q_proj k_proj v_proj o_proj",
        "stack": stack,
        "peak_allocated_mib": str(allocated),
        "peak_reserved_mib": str(reserved),
        "process_mib": str(process),
    }
    (errors,) = benchmark.compare([cells], SHAPES)
    assert abs(errors.allocated) <= 0.02
    assert -0.015 <= errors.process <= 0.03
    assert errors.as_json()["seq_len"] == tokens


def test_attention_biases_are_read_off_the_parameter_count(benchmark: ModuleType) -> None:
    assert benchmark.config_of(SHAPES[TINYLLAMA])["model_type"] == "llama"
    shape = SHAPES[TINYLLAMA]
    biases = 22 * (2048 + 2 * 256)
    assert benchmark.config_of({**shape, "num_params": shape["num_params"] + biases})["model_type"] == "qwen2"
