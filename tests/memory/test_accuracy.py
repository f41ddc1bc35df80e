"""The plan against memory that was measured on a card.

The rows are from fitcheck-llm 0.3.1 (MIT): one LoRA or QLoRA step on a Tesla T4. The shapes are SmolLM2-135M's and
TinyLlama-1.1B's.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from benchmarks import memory_accuracy
from benchmarks.measured_steps import config_of, emptied, workload_of
from benchmarks.memory_accuracy import Errors
from pytest_finetune.memory.hardware.sizes import MiB
from pytest_finetune.memory.tracer.allocator import replay
from pytest_finetune.memory.tracer.events import Born, Died, Emptied, Entered, Event

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

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


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row[1]}-{row[2]}-{row[3]}x{row[4]}")
def test_measured_peaks_are_met(row: tuple[Any, ...]) -> None:
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
    if stack == NEW:
        cells["after_load_allocated_mib"] = "1.0"
    (errors,) = memory_accuracy.compare([cells], SHAPES)
    assert errors.allocated is not None
    assert errors.process is not None
    assert errors.upper is not None
    assert abs(errors.allocated) <= 0.02
    assert -0.015 <= errors.process <= 0.03
    assert errors.as_json()["seq_len"] == tokens
    raced = quantization == "nf4" and stack == NEW
    assert bool(errors.paces) == raced
    assert errors.upper > errors.process if raced else errors.upper == errors.process


def test_rows_of_the_older_stack_whose_load_was_looked_at_were_loaded_in_a_race() -> None:
    row = {"model": TINYLLAMA, "kernel": "flash", "quantization": "nf4", "batch_size": "1", "seq_len": "64"}
    row |= {"lora_rank": "8", "lora_targets": "all-linear", "stack": OLD}
    assert workload_of(row, SHAPES).loading == "streamed"
    looked_at = {**row, "after_load_allocated_mib": "1077.05"}
    assert workload_of(looked_at, SHAPES).loading == "threaded"
    assert workload_of({**looked_at, "quantization": "none"}, SHAPES).loading == "moved"


def test_a_figure_that_leaves_its_bound_is_a_promise_that_is_not_held() -> None:
    near = Errors({}, allocated=0.001, process=-0.004, upper=-0.004)
    under = Errors({}, allocated=0.001, process=-0.12, upper=-0.02)
    assert all(one.holds() for one in memory_accuracy.promises([near], [near], [0.01], []))
    broken = [one.words for one in memory_accuracy.promises([near], [under], [0.03], []) if not one.holds()]
    assert broken == [
        "T4, upper end of the interval: lowest error",
        "T4, paces chosen on the other models: largest error",
    ]
    runs = [
        {"peft": peft, "share": share, "reserved_error": error}
        for peft, share, error in (("full", "max", 0.014), ("{}", "max", -0.02), ("full", "p99", 0.024))
    ]
    assert [one.holds() for one in memory_accuracy.promises([], [], [], runs)] == [True, False, True]


def test_a_cache_that_is_given_back_between_two_steps_leaves_the_next_one_less() -> None:
    """What a step has cached stays where it does not fit the next one; given back, it is not reserved."""

    def step(storage: int, size: int) -> list[Event]:
        return [
            Born(storage, size, "activations", "op"),
            Died(storage),
            Entered("optimizer", None),
            Entered("release", None),
        ]

    events = [*step(1, 64 * MiB), *step(2, 96 * MiB)]
    assert [replay(one).reserved for one in (events, emptied(events))] == [160 * MiB, 96 * MiB]
    assert [type(event) for event in emptied(events)].count(Emptied) == 2


def test_two_paces_are_chosen_on_the_other_models_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def row(model: str, best: int) -> Errors:
        # The error grows with the distance from the pace at which this model comes out.
        paces = {pace: (pace - best) / (100 * MiB) for pace in memory_accuracy.CHOICE}
        return Errors({"model": model}, paces=paces)

    tried = memory_accuracy.without_one_model([row("a", 2 * MiB), row("b", 2 * MiB), row("c", 6 * MiB)])
    assert sorted(tried) == pytest.approx([-0.04, 0.02, 0.02])
    assert "c                         0.25 and 2" in capsys.readouterr().out
    assert memory_accuracy.without_one_model([row("a", MiB)]) == []


def test_attention_biases_are_read_off_the_parameter_count() -> None:
    assert config_of(SHAPES[TINYLLAMA])["model_type"] == "llama"
    shape = SHAPES[TINYLLAMA]
    biases = 22 * (2048 + 2 * 256)
    assert config_of({**shape, "num_params": shape["num_params"] + biases})["model_type"] == "qwen2"
