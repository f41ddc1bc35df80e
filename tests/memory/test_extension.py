from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pytest_finetune.memory.plan.workload import PLAIN_STEP, Adapter, Workload
from pytest_finetune.memory.tracer.events import Born, Died, Entered
from pytest_finetune.memory.tracer.extend import NotRepeatedError, OptimizerTrace, canonical, extend
from pytest_finetune.memory.tracer.trace import trace, trace_fully

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

BF16 = Adapter(dtype="bfloat16")
KBIT: Mapping[str, Any] = {
    "quantization": "nf4",
    "kbit_upcast": True,
    "autocast": None,
    "dtype": "float16",
    "step": PLAIN_STEP,
    "keeps_output": True,
    "checkpointing": True,
    "attention": "efficient",
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "lora": {},
    "checkpointing": {"checkpointing": True},
    "padded batch": {"masked": True},
    "eager attention": {"attention": "eager"},
    "accumulation and dropout": {"accumulation": 4, "adapter": Adapter(dropout=0.1)},
    "dora": {"adapter": Adapter(dora=True)},
    "nf4": {"quantization": "nf4", "adapter": BF16},
    "int8": {"quantization": "int8", "adapter": BF16},
    "full fine-tuning": {"adapter": None},
    "transformers step, 8-bit optimizer": {"step": PLAIN_STEP, "optimizer": "adamw_8bit"},
    "fused optimizer": {"optimizer": "adamw_torch_fused"},
    "kbit training": KBIT,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_an_extended_timeline_is_the_full_one_event_by_event(
    name: str, tiny_config: Mapping[str, Any]
) -> None:
    workload = Workload(config={**tiny_config, "num_hidden_layers": 8}, tokens=48, batch=2).changed(
        **VARIANTS[name]
    )
    extended, full = trace(workload), trace_fully(workload)
    assert (extended.layers, full.layers) == (6, 8)
    assert canonical(extended.events) == canonical(full.events)
    assert (extended.parameters, extended.trainable) == (full.parameters, full.trainable)


def test_a_bias_that_the_first_step_casts_for_good_stays_cast_in_the_second(
    tiny_config: Mapping[str, Any],
) -> None:
    config = {**tiny_config, "model_type": "qwen2", "num_hidden_layers": 8}
    workload = Workload(config=config, tokens=48, batch=2).changed(**KBIT)
    extended, full = trace(workload), trace_fully(workload)
    assert extended.layers < full.layers
    assert canonical(extended.events) == canonical(full.events)


def test_layers_of_two_kinds_are_traced_in_full(tiny_config: Mapping[str, Any]) -> None:
    kinds = ["sliding_attention", "full_attention"] * 4
    config = {
        **tiny_config,
        "model_type": "qwen2",
        "num_hidden_layers": 8,
        "layer_types": kinds,
        "use_sliding_window": True,
        "sliding_window": 16,
    }
    assert trace(Workload(config=config, tokens=32)).layers == 8


def test_layers_that_differ_are_not_extended() -> None:
    timeline = [
        event
        for layer in range(6)
        for event in (
            Entered("forward", layer),
            Born(layer, 512 * (layer + 1), "activations", "op"),
            Died(layer),
        )
    ]
    with pytest.raises(NotRepeatedError, match="layers 2 and 3 differ"):
        extend([*timeline, Entered("end", None)], 6, 12, OptimizerTrace([], [], []), steps=2)
