"""What is said of an optimizer's memory against the installed torch's own step."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch

from pytest_finetune.memory.plan.figures import PlanError
from pytest_finetune.memory.tracer.events import Born, Died, Event
from pytest_finetune.memory.tracer.extend import canonical
from pytest_finetune.memory.tracer.optimizers import KNOWN, clip_gradients, make_optimizer
from pytest_finetune.memory.tracer.recorder import Kernels, Recorder

Parameters = list[torch.nn.Parameter]
TORCHS_OWN: dict[str, Callable[[Parameters], torch.optim.Optimizer]] = {
    "adamw_torch": lambda parameters: torch.optim.AdamW(parameters, foreach=True),
    "adamw_torch_fused": lambda parameters: torch.optim.AdamW(parameters, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, foreach=True),
}


@pytest.fixture(autouse=True)
def _storages_die_by_reference_count() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def trained(dtype: torch.dtype = torch.float32) -> Parameters:
    """Three parameters whose gradients are there, and one that the step never reached."""
    parameters = [torch.nn.Parameter(torch.ones(*shape, dtype=dtype)) for shape in ((64, 32), (7,), (1, 9))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    return [*parameters, torch.nn.Parameter(torch.ones(5, dtype=dtype))]


def recorded(run: Callable[[Recorder], None]) -> list[Event]:
    recorder = Recorder(vocabulary=frozenset(), kernels=Kernels({}, {}))
    recorder.part = "optimizer"
    run(recorder)
    return [
        event._replace(op="") if isinstance(event, Born) else event for event in canonical(recorder.events)
    ]


def births(events: list[Event]) -> list[int]:
    return [event.bytes for event in events if isinstance(event, Born)]


def bytes_kept(events: list[Event]) -> list[int]:
    dead = {event.storage for event in events if isinstance(event, Died)}
    return [event.bytes for event in events if isinstance(event, Born) and event.storage not in dead]


@pytest.mark.parametrize("name", TORCHS_OWN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_steps_take_and_keep_what_torchs_own_optimizer_does(name: str, dtype: torch.dtype) -> None:
    own = TORCHS_OWN[name](parameters := trained(dtype))

    def torchs(recorder: Recorder) -> None:
        with recorder:
            own.step()
            own.step()

    optimizer = make_optimizer(name, parameters)

    def ours(recorder: Recorder) -> None:
        optimizer.step(recorder)
        optimizer.step(recorder)

    assert recorded(ours) == recorded(torchs)


def test_clipping_takes_what_torchs_own_does() -> None:
    parameters = trained()

    def torchs(recorder: Recorder) -> None:
        with recorder:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)

    ours, own = recorded(lambda recorder: clip_gradients(parameters, recorder)), recorded(torchs)
    assert births(ours) == births(own)
    assert bytes_kept(ours) == bytes_kept(own) == []


def test_nothing_is_clipped_where_no_parameter_was_reached() -> None:
    assert recorded(lambda recorder: clip_gradients(trained()[3:], recorder)) == []


def test_eight_bit_state_is_a_byte_a_value_and_a_scale_for_a_block_and_paged_state_is_not_on_the_card() -> (
    None
):
    large = [torch.nn.Parameter(torch.empty(4096, device="meta"))]
    assert births(recorded(make_optimizer("adamw_8bit", large).step)) == [4096, 64, 4096, 64]
    assert births(recorded(make_optimizer("paged_adamw_8bit", large).step)) == []


def test_an_unknown_optimizer_names_those_that_can_be_planned() -> None:
    with pytest.raises(PlanError, match="did you mean 'adamw_torch'") as told:
        make_optimizer("adamw_touch", [])
    assert ", ".join(KNOWN) in str(told.value)
