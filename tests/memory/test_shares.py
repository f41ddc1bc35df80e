"""What the plan says that one process holds of a shared model, against the shares that torch really makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest
import torch
import torch.distributed as distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from pytest_finetune.memory.plan.workload import PLAIN_STEP, Adapter, Workload
from pytest_finetune.memory.tracer import model as models
from pytest_finetune.memory.tracer.events import Became, Born, Died, live_peak
from pytest_finetune.memory.tracer.shares import gathered_bytes, settled
from pytest_finetune.memory.tracer.trace import trace, trace_fully

pytestmark = pytest.mark.filterwarnings("ignore")

# Widths that neither two nor three processes can share evenly, and a vocabulary that is a prime.
CONFIG = {
    "model_type": "llama",
    "hidden_size": 28,
    "intermediate_size": 53,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 101,
    "tie_word_embeddings": False,
}
LORA = Workload(
    config=CONFIG,
    tokens=8,
    adapter=Adapter(rank=5),
    dtype="float32",
    autocast=None,
    loading="moved",
    attention="eager",
    step=PLAIN_STEP,
)
FULL = LORA.changed(adapter=None)


def test_a_gradient_that_is_shared_out_leaves_its_share_until_the_weights_are_updated() -> None:
    whole, share = Born(1, 90, "temporaries", "mm"), Born(3, 30, "gradients", "share")
    again = Became(1, "gradients", 30)  # the second backward pass of the step adds to it
    other = Born(2, 8, "activations", "mm")
    assert settled([whole, other, again, again, Died(2), Died(1)]) == [
        whole,
        other,
        Died(1),
        share,
        Died(2),
        Died(3),
    ]


def test_what_is_gathered_is_counted_from_the_units() -> None:
    model = models.build(FULL, lambda base: None)
    layer = 4 * (
        28 * (28 + 14 + 14 + 28) + 3 * 28 * 53 + 2 * 28
    )  # of an even number of rows but for the two of 53
    layer += 4 * 2 * 28  # 53 rows are padded to 54 for two, in the gate and beside it
    kept = 4 * (102 * 28 + 28)  # the head, 101 rows padded to 102, and the last norm
    assert gathered_bytes(model, 2) == 2 * layer + kept + 2 * layer


def test_few_layers_speak_for_many_when_the_model_is_shared_too() -> None:
    deep = LORA.changed(config={**CONFIG, "num_hidden_layers": 8}, ranks=2)
    few, all_ = live_peak(trace(deep).events), live_peak(settled(trace_fully(deep).events))
    assert (few.bytes, few.parts, few.phase) == (all_.bytes, all_.parts, all_.phase)
    assert few.parts["gathered"] > 0


class Lines(NamedTuple):
    """What one process keeps, in bytes; buffers are left out, which nobody shares."""

    frozen: int
    trained: int
    gradients: int
    optimizer: int


@pytest.fixture(params=[2, 3])
def ranks(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many processes, of which this one is the first: nothing is sent, and every size is that of a real share."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=request.param)
    yield int(request.param)
    distributed.destroy_process_group()


@pytest.mark.parametrize("workload", [LORA, FULL], ids=["an adapter", "every weight"])
def test_the_lines_of_the_plan_are_the_bytes_of_the_shares_that_torch_makes(
    workload: Workload, ranks: int
) -> None:
    shares, whole = planned(workload.changed(ranks=ranks)), planned(workload)
    assert shares == made(workload)
    assert all(line <= share * ranks for share, line in zip(shares, whole, strict=True))
    assert shares.trained < whole.trained


def planned(workload: Workload) -> Lines:
    """Return what the plan adds up to, without the rounding of the allocator."""
    events = trace(workload).events
    model = models.build(workload, lambda base: None)
    buffers = sum(_bytes([buffer]) for buffer in model.buffers())
    born = [event for event in events if isinstance(event, Born)]
    first = {event.storage: event for event in reversed(born)}
    gradients = {event.storage for event in events if isinstance(event, Became)}
    if workload.ranks > 1:
        gradients = {event.storage for event in born if event.op == "share"}
    steps = 2  # each makes its gradients anew
    return Lines(
        sum(event.bytes for event in born if event.part == "frozen weights") - buffers,
        sum(event.bytes for event in born if event.part == "adapter"),
        sum(first[storage].bytes for storage in gradients) // steps,
        sum(event.bytes for event in born if event.op == "adamw"),
    )


def made(workload: Workload) -> Lines:
    """Share the model out, take one step, and return what this process holds of it."""
    model = models.build(workload, lambda base: None).to_empty(device="cpu")
    for layer in models.repeated_layers(model):
        fully_shard(layer)
    fully_shard(model)
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    ids = torch.zeros(1, 8, dtype=torch.int64)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    states = [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, DTensor)
    ]
    return Lines(
        _bytes(weight for weight in weights if not weight.requires_grad),
        _bytes(trained),
        _bytes(weight.grad for weight in trained if weight.grad is not None),
        _bytes(states),
    )


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    held = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)
