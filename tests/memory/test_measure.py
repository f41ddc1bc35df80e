from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_finetune.memory.hardware.cards import family_of
from pytest_finetune.memory.hardware.detect import parse_budget
from pytest_finetune.memory.hardware.sizes import GiB, MiB
from pytest_finetune.memory.measure import (
    CudaMeter,
    Fit,
    Measured,
    TooLargeError,
    _restored,
    measure_longest,
    refuse_unless_fits,
)
from pytest_finetune.memory.plan.explain import as_json
from pytest_finetune.memory.plan.figures import Figures, Held
from pytest_finetune.memory.plan.plan import MemoryPlan, for_family
from pytest_finetune.memory.plan.planner import Answer, Limit, Planner
from pytest_finetune.memory.plan.weights import Files
from pytest_finetune.memory.plan.workload import Adapter, Workload
from pytest_finetune.memory.tracer.steps import TrlStep

SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}


def noisy_step(parameter: torch.nn.Parameter) -> None:
    """Train a little, and draw from every source of randomness."""
    (parameter * torch.rand_like(parameter)).sum().backward()  # type: ignore[no-untyped-call]
    assert parameter.grad is not None
    with torch.no_grad():
        parameter.sub_(parameter.grad, alpha=0.1)
    random.random()


def test_measuring_leaves_weights_gradients_and_random_states_alone() -> None:
    torch.manual_seed(1)
    random.seed(1)
    parameter = torch.nn.Parameter(torch.rand(8))
    before, drawn, state = parameter.detach().clone(), torch.get_rng_state(), random.getstate()
    with _restored([parameter]):
        noisy_step(parameter)
        assert not torch.equal(parameter, before)
    torch.testing.assert_close(parameter.detach(), before, rtol=0, atol=0)
    assert parameter.grad is None
    assert torch.equal(torch.get_rng_state(), drawn)
    assert random.getstate() == state


def test_the_state_is_restored_when_the_step_runs_out_of_memory() -> None:
    parameter = torch.nn.Parameter(torch.ones(4))
    with pytest.raises(MemoryError), _restored([parameter]):
        noisy_step(parameter)
        raise MemoryError
    assert torch.equal(parameter.detach(), torch.ones(4))


@pytest.fixture
def plan(tiny_config: Mapping[str, Any]) -> MemoryPlan:
    held = Held(9 * GiB, 10 * GiB, 9 * GiB)
    figures = Figures(
        held={8320 * 1024: held},
        parts={"activations": 9 * GiB},
        phase="backward",
        layer=None,
        phases={},
        parameters=1,
        trainable=1,
        resident=0,
        traced_layers=4,
        layers=4,
    )
    return MemoryPlan(Workload(config=tiny_config, tokens=64), figures, 64)


def test_prediction_and_measurement_stand_side_by_side(plan: MemoryPlan) -> None:
    measured = Measured(allocated=9 * GiB, reserved=10 * GiB, process=10 * GiB + 300 * MiB)
    assert as_json(plan, None, Planner(None))["predicted_peak_bytes"] == 10 * GiB + 600 * MiB
    assert measured.as_json()["measured_peak_bytes"] == measured.process
    assert measured.error(plan) == pytest.approx(0.0284, abs=1e-4)


def test_a_measured_batch_that_fits_is_not_refused(plan: MemoryPlan) -> None:
    refuse_unless_fits(Measured(9 * GiB, 30 * GiB, 31 * GiB), Fit(parse_budget("12GiB"), plan, Planner(None)))


def test_a_measured_batch_over_the_budget_is_refused_with_both_numbers_and_a_remedy(plan: MemoryPlan) -> None:
    held = Held(3 * GiB, 3 * GiB, 3 * GiB)
    planner = Knowing(replace(plan.figures, held={8320 * 1024: held}))
    measured, named = Measured(10 * GiB, 11 * GiB, 11 * GiB + 300 * MiB), parse_budget("10.5GiB")
    with pytest.raises(TooLargeError) as raised:
        refuse_unless_fits(measured, Fit(replace(named, source="measured"), plan, planner))
    assert str(raised.value).splitlines() == [
        "not trained: the longest batch took 10.3 GiB (measured), the budget is 9.7 GiB "
        "(a card with 10.5GiB, 8% headroom kept)",
        "  predicted peak 10.6 GiB (batch 1, 64 tokens): -6.3% from the measurement",
        "  change one thing:  gradient_checkpointing true -> 3.6 GiB (predicted)",
        "  it fits when less of the card is kept free: --finetune-headroom=0%",
    ]
    with pytest.raises(TooLargeError) as raised:
        refuse_unless_fits(measured, Fit(named, plan, planner))
    assert str(raised.value).splitlines()[1] == (
        "  predicted peak 10.6 GiB (batch 1, 64 tokens) is for a card with 10.5GiB, and is no measure of the card that "
        "is here"
    )


class Knowing(Planner):
    """A planner that knows one answer to everything."""

    def __init__(self, answer: Figures) -> None:
        super().__init__(None)
        self._answer = answer

    def climb(
        self,
        ladders: Sequence[Sequence[Workload]],
        limit: Limit | None = None,
        files: Files | None = None,
    ) -> list[list[Answer]]:
        return [[self._answer for _ in ladder] for ladder in ladders]


def test_a_batch_that_could_not_be_planned_is_refused_by_its_measurement() -> None:
    with pytest.raises(TooLargeError) as raised:
        refuse_unless_fits(
            Measured(9 * GiB, 9 * GiB, 10 * GiB), Fit(parse_budget("8GiB"), None, Planner(None))
        )
    assert str(raised.value) == (
        "not trained: the longest batch took 10.0 GiB (measured), the budget is 7.4 GiB "
        "(a card with 8GiB, 8% headroom kept)"
    )


@pytest.mark.gpu(min_gib=4)
def test_a_real_step_is_measured_on_the_card() -> None:
    parameter = torch.nn.Parameter(torch.ones(1 << 20, device="cuda"))
    measured = measure_longest(lambda: noisy_step(parameter), [parameter], CudaMeter("cuda", MiB))
    assert isinstance(measured, Measured)
    assert 2 * parameter.nbytes <= measured.allocated <= measured.reserved <= measured.process
    assert torch.equal(parameter.detach().cpu(), torch.ones(1 << 20))


@pytest.mark.gpu(min_gib=4)
def test_the_plan_meets_the_card_within_five_percent() -> None:
    """The traced step against the same step on the card: TRL's own head, PEFT, AdamW, bfloat16 autocast."""
    family = family_of(torch.cuda.get_device_capability())
    workload = for_family(Workload(config=SMOLLM2, tokens=1024, adapter=Adapter(rank=16)), family)
    predicted = Planner(None).each([workload])[0].with_workspace(family.cublas_bytes)
    assert predicted.allocated == pytest.approx(step_on_the_card(workload).allocated, rel=0.05)


def step_on_the_card(workload: Workload) -> Measured:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    assert workload.adapter is not None
    config = LlamaConfig(**{name: value for name, value in workload.config.items() if name != "model_type"})
    model = LlamaForCausalLM(config).to("cuda", getattr(torch, workload.dtype))
    add_fused_lm_head(model, outputs=TrlStep.outputs)
    lora = LoraConfig(r=workload.adapter.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, lora).train()
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.zeros(workload.batch, workload.tokens, dtype=torch.int64, device="cuda")

    def step() -> None:
        with torch.autocast("cuda", dtype=getattr(torch, workload.dtype)):
            loss = wrapped(
                input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, fused_lm_head=True
            ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return measure_longest(step, trained, CudaMeter("cuda", MiB))
