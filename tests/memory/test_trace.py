"""The trace against real tensors: the allocator's own events of the same step on a CPU, and TRL's own loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.family_shapes import SHAPES
from pytest_finetune.memory.plan.figures import PlanError
from pytest_finetune.memory.plan.workload import PLAIN_STEP, Adapter, Workload
from pytest_finetune.memory.tracer import trace as tracing
from pytest_finetune.memory.tracer.allocator import replay, smallest_budget
from pytest_finetune.memory.tracer.events import Born, Died, Entered, Event, live_peak
from pytest_finetune.memory.tracer.kernels import register_attention
from pytest_finetune.memory.tracer.model import build
from pytest_finetune.memory.tracer.recorder import Recorder
from pytest_finetune.memory.tracer.trace import STEPS, trace, trace_fully
from pytest_finetune.memory.tracer.variants import variants

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    "ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning",  # peft 0.21
)

EXAMPLE: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 4096,
    "tie_word_embeddings": True,
    "max_position_embeddings": 1024,
}


class TorchsOwn:
    """torch's optimizer and its clipping, which the trace only describes."""

    def __init__(self, _: str, parameters: Iterable[torch.nn.Parameter], ranks: int) -> None:
        self._optimizer = torch.optim.AdamW(parameters, foreach=True)

    def step(self, recorder: Recorder) -> None:
        self._optimizer.step()

    @staticmethod
    def clip(parameters: Iterable[torch.nn.Parameter], recorder: Recorder) -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)


@pytest.fixture
def real_optimizer(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the traces that follow run torch's own optimizer."""

    def install() -> None:
        monkeypatch.setattr(tracing, "make_optimizer", TorchsOwn)
        monkeypatch.setattr(tracing, "clip_gradients", TorchsOwn.clip)

    return install


def measured_peak(workload: Workload) -> int:
    """Run the step on real CPU tensors and return the peak of what torch's CPU allocator really handed out."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trace_fully(workload, fake=False, cuda=False)
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize(("batch", "tokens", "checkpointing"), [(1, 96, False), (2, 48, True)])
def test_traced_bytes_are_the_bytes_of_a_real_step(
    batch: int, tokens: int, checkpointing: bool, real_optimizer: Callable[[], None]
) -> None:
    workload = Workload(
        config=EXAMPLE,
        tokens=tokens,
        batch=batch,
        dtype="float32",
        autocast="bfloat16",
        attention="eager",
        checkpointing=checkpointing,
        step=PLAIN_STEP,
    )
    predicted = live_peak(trace_fully(workload, cuda=False).events, rounding=1).bytes
    real_optimizer()
    assert predicted == pytest.approx(measured_peak(workload), rel=0.005)


def peak(workload: Workload) -> int:
    return live_peak(variants(trace(workload).events, workload.loading, 8320 * 1024)[0]).bytes


def test_more_of_anything_and_fewer_savings_need_more(shallow_config: Mapping[str, Any]) -> None:
    plain = Workload(config=shallow_config, batch=2, tokens=48, adapter=Adapter(rank=8))
    needed = peak(plain)
    for more in ({"batch": 4}, {"tokens": 96}, {"adapter": Adapter(rank=16)}):
        assert needed < peak(plain.changed(**more)), more
    for savings in (
        {"checkpointing": True},
        {"quantization": "nf4", "adapter": Adapter(rank=8, dtype="bfloat16")},
    ):
        assert needed > peak(plain.changed(**savings)), savings


@pytest.mark.nightly
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 4),
    tokens=st.integers(16, 160),
    rank=st.sampled_from([2, 8, 32]),
    more=st.sampled_from(["batch", "tokens", "rank", "checkpointing", "quantization"]),
    checkpointing=st.booleans(),
)
def test_more_of_anything_drawn_and_fewer_savings_never_need_less(
    shallow_config: Mapping[str, Any], batch: int, tokens: int, rank: int, more: str, checkpointing: bool
) -> None:
    small = Workload(
        config=shallow_config,
        batch=batch,
        tokens=tokens,
        adapter=Adapter(rank=rank),
        checkpointing=checkpointing,
    )
    larger: Mapping[str, dict[str, Any]] = {
        "batch": {"batch": batch + 2},
        "tokens": {"tokens": tokens * 2},
        "rank": {"adapter": Adapter(rank=rank * 2)},
        "checkpointing": {"checkpointing": False},
        "quantization": {"quantization": "none"},
    }
    large = small.changed(**larger[more])
    if more == "checkpointing":
        small = small.changed(checkpointing=True)
    if more == "quantization":
        small = small.changed(quantization="nf4", adapter=Adapter(rank=rank, dtype="bfloat16"))
    assert peak(small) <= peak(large)


def test_two_steps_are_traced_and_the_second_holds_the_optimizers_state(
    shallow_config: Mapping[str, Any],
) -> None:
    events = trace(Workload(config=shallow_config, tokens=32)).events
    assert sum(event == Entered("optimizer", None) for event in events) == STEPS
    peaks = [live_peak(part).bytes for part in (events, up_to(events, "optimizer"))]
    assert peaks[0] > peaks[1]


def up_to(events: list[Event], phase: str) -> list[Event]:
    return events[: events.index(Entered(phase, None))]


def test_every_death_follows_its_birth(shallow_config: Mapping[str, Any]) -> None:
    alive: set[int] = set()
    for event in trace(Workload(config={**shallow_config, "num_hidden_layers": 9}, tokens=32)).events:
        if isinstance(event, Born):
            assert event.storage not in alive
            alive.add(event.storage)
        elif isinstance(event, Died):
            alive.remove(event.storage)


def test_trl_scores_the_supervised_positions_as_its_own_fused_head_does() -> None:
    """The step's glue, run on real tensors, gives TRL's own loss and gradients."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from pytest_finetune.memory.tracer.steps import TrlStep

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**EXAMPLE, "num_hidden_layers": 1}))
    ids = torch.randint(0, 4096, (2, 9))
    batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    ours = TrlStep().loss(model, batch).loss
    add_fused_lm_head(model, outputs=TrlStep.outputs)
    theirs = model(**batch, fused_lm_head=True).loss
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": "adamw_torhc"}, "did you mean 'adamw_torch'"),
        ({"adapter": Adapter(targets=("nope",))}, "modules that the base model does not have"),
        ({"step": "nowhere:Step"}, "the training step 'nowhere:Step' cannot be loaded"),
    ],
)
def test_what_cannot_be_traced_says_why(
    changes: dict[str, Any], says: str, shallow_config: Mapping[str, Any]
) -> None:
    with pytest.raises(PlanError, match=says):
        trace(Workload(config=shallow_config, tokens=16).changed(**changes))


def test_a_step_from_elsewhere_is_traced(shallow_config: Mapping[str, Any]) -> None:
    plain = Workload(config=shallow_config, tokens=64, step=PLAIN_STEP)
    assert live_peak(trace(plain).events).parts["logits and loss"] > 64 * 512 * 4


def test_the_smallest_budget_lies_between_live_and_reserved(shallow_config: Mapping[str, Any]) -> None:
    timeline = variants(trace(Workload(config=shallow_config, tokens=64)).events, "streamed", 8320 * 1024)[0]
    held = replay(timeline)
    assert live_peak(timeline).bytes <= smallest_budget(timeline) <= held.reserved


SMALL = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
WITHOUT_SDPA: dict[str, dict[str, Any]] = {
    "gemma2": {**SMALL, "num_key_value_heads": 2, "intermediate_size": 128, "head_dim": 16},
    "bloom": {"vocab_size": 512, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "mamba2": {
        **SMALL,
        "num_heads": 8,
        "head_dim": 16,
        "n_groups": 1,
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
    },
}


@pytest.mark.parametrize("kind", WITHOUT_SDPA)
def test_an_architecture_without_sdpa_is_built_as_training_loads_it(kind: str) -> None:
    register_attention(_no_recorder)
    own = {"quantization_config": {"quant_method": "fp8"}}  # loaded as plain weights
    workload = Workload(config={"model_type": kind, **WITHOUT_SDPA[kind], **own}, tokens=16, adapter=None)
    model = build(workload, lambda base: None)
    assert model.config._attn_implementation == "eager"
    assert not hasattr(model.config, "quantization_config")
    limit = getattr(model.config, "time_step_limit", None)
    assert limit is None or limit[1] == float("inf")


def _no_recorder() -> NoReturn:
    raise AssertionError("a kernel of sdpa was taken")


def test_eager_attention_of_such_an_architecture_is_traced() -> None:
    config = {"model_type": "gemma2", **WITHOUT_SDPA["gemma2"]}
    assert trace(Workload(config=config, tokens=16, masked=True, batch=2)).trainable > 0


@pytest.mark.parametrize(
    "name", ["Gemma 3", "Llama 4, text", "DeepSeek-V3", "Gemma 3n, text", "Falcon", "GPT-Neo"]
)
def test_a_kind_of_architecture_that_has_parts_of_its_own_can_be_traced(name: str) -> None:
    traced = trace(Workload(config=SHAPES[name], tokens=24))
    assert 0 < traced.trainable < traced.parameters
    assert live_peak(variants(traced.events, "streamed", 0)[0]).parts["adapter"] >= 4 * traced.trainable


def test_dora_on_4_bit_weights_is_traced_and_takes_each_weight_whole() -> None:
    plain, dora = (
        trace(Workload(config=EXAMPLE, tokens=16, quantization="nf4", adapter=Adapter(dora=dora)))
        for dora in (False, True)
    )
    assert dora.trainable > plain.trainable
    assert (
        live_peak(variants(dora.events, "streamed", 0)[0]).bytes
        > live_peak(variants(plain.events, "streamed", 0)[0]).bytes
    )


def test_layers_that_are_only_listed_are_counted() -> None:
    listed = {key: value for key, value in SHAPES["Nemotron-H"].items() if key != "num_hidden_layers"}
    assert Workload(config=listed, tokens=16).depth == 3


def test_a_tower_gets_no_adapter_in_the_plan_and_its_layers_are_not_the_language_models() -> None:
    shape = SHAPES["Gemma 3"]
    deep = {**shape, "vision_config": {**shape["vision_config"], "num_hidden_layers": 9}}
    shallow, deeper = (trace(Workload(config=config, tokens=24)) for config in (shape, deep))
    assert shallow.trainable == deeper.trainable
    assert {
        event.layer for event in deeper.events if isinstance(event, Entered) and event.phase == "backward"
    } <= {None, 0, 1}
