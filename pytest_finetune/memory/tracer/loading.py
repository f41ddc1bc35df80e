"""Put the model on the card as `from_pretrained` does: what it leaves behind decides where the step finds room.

``moved`` is a model that was loaded on the CPU and sent over by ``.to("cuda")``, module by module. The
others load with a `device_map`: transformers first takes and frees one block as large as the whole model,
then reads the checkpoint's tensors into it in the order of their names
(modeling_utils.caching_allocator_warmup, core_model_loading). A weight that is quantised on the way is
there in 16 bits for a moment. ``streamed`` reads one tensor after the other, as transformers does now when
it quantises; ``threaded`` is its older way, in which four threads run ahead of the thread that quantises.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from pytest_finetune.memory.plan.workload import Workload
from pytest_finetune.memory.tracer.events import ADAPTER, READ, READ_WIDE, UPCAST, WARM_UP, Emptied
from pytest_finetune.memory.tracer.model import Resident, layer_of, residents
from pytest_finetune.memory.tracer.recorder import Recorder
from pytest_finetune.memory.tracer.shares import GATHERED, gathered_bytes, share_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOAD: Final = "load"

_WRAPPER: Final = re.compile(r"^base_model\.model\.|\.base_layer(?=\.)")


class Arrival(NamedTuple):
    """One tensor of the checkpoint: the layer it belongs to, and its members (a weight and its scales)."""

    name: str
    layer: int | None
    members: list[Resident]


def load(workload: Workload, model: PreTrainedModel, recorder: Recorder) -> None:
    """Log the births of everything that is on the card before the first step, in the order in which it gets there."""
    arrivals = list(_arrivals(model))
    base = [arrival for arrival in arrivals if arrival.members[0].part != "adapter"]
    adapters = [arrival for arrival in arrivals if arrival.members[0].part == "adapter"]
    if workload.ranks > 1:  # the adapter's weights were upcast in the machine's memory
        _share_out(model, [*base, *adapters], recorder, workload.ranks)
        return
    ordered = base
    if workload.loading != "moved":
        ordered = sorted(base, key=lambda arrival: _natural(arrival.name))
        for layer, size in _sizes(workload, base):
            recorder.enter(WARM_UP, layer)
            recorder.release(recorder.held(size, WARM_UP, "frozen weights"))
    narrow = {}
    for arrival in ordered:
        recorder.enter(LOAD, arrival.layer)
        narrow[arrival.name] = _arrive(workload, arrival, recorder)
    if workload.kbit_upcast:
        _upcast(base, narrow, recorder)
        if workload.loading == "streamed":
            recorder.events.append(Emptied())
    _adapters(workload, adapters, recorder)
    recorder.enter(LOAD)


def _arrivals(model: PreTrainedModel) -> Iterator[Arrival]:
    found: dict[str, list[Resident]] = {}
    for resident in residents(model):
        found.setdefault(_WRAPPER.sub("", resident.name), []).append(resident)
    for name, members in found.items():
        yield Arrival(name, layer_of(name), members)


def _arrive(workload: Workload, arrival: Arrival, recorder: Recorder) -> int | None:
    """Log one tensor of the checkpoint; return the number of a 16-bit tensor that is upcast later."""
    first = arrival.members[0].tensor
    if first.dtype in (torch.uint8, torch.int8) and len(arrival.members) > 1:
        wide = recorder.held(_values(first) * 2, READ_WIDE, "frozen weights")
        weight, *scales = arrival.members
        for member in (scales[0], weight, *scales[1:]):
            recorder.add(member.tensor, member.part, READ)
        recorder.release(wide)
        return None
    if workload.kbit_upcast and first.dtype is torch.float32 and isinstance(first, torch.nn.Parameter):
        return recorder.held(first.numel() * 2, READ, "frozen weights")
    _add(arrival, recorder, READ)
    return None


def _add(arrival: Arrival, recorder: Recorder, op: str) -> None:
    for member in arrival.members:
        recorder.add(member.tensor, member.part, op)


def _share_out(model: PreTrainedModel, arrivals: Sequence[Arrival], recorder: Recorder, ranks: int) -> None:
    """Log this process's share of each weight, which reaches the card as that, buffers whole, and what is gathered."""
    for arrival in arrivals:
        recorder.enter(LOAD, arrival.layer)
        for member in arrival.members:
            weight = isinstance(member.tensor, torch.nn.Parameter)
            recorder.add(member.tensor, member.part, READ, share_of(member.tensor, ranks) if weight else None)
    recorder.enter(LOAD)
    recorder.held(gathered_bytes(model, ranks), GATHERED, GATHERED)


def _upcast(base: Sequence[Arrival], narrow: dict[str, int | None], recorder: Recorder) -> None:
    """Replace the 16-bit tensors by float32 ones, one after the other (peft.prepare_model_for_kbit_training)."""
    for arrival in base:
        number = narrow[arrival.name]
        if number is not None:
            recorder.enter(UPCAST, arrival.layer)
            _add(arrival, recorder, UPCAST)
            recorder.release(number)


def _adapters(workload: Workload, adapters: Sequence[Arrival], recorder: Recorder) -> None:
    """Log the adapters: they arrive in the base's dtype, and all are upcast at the end when they are kept wider."""
    base_is_narrow = workload.quantization == "none" and workload.dtype != "float32"
    upcast = base_is_narrow and workload.adapter is not None and workload.adapter.dtype == "float32"
    narrow = []
    for arrival in adapters:
        recorder.enter(ADAPTER, arrival.layer)
        if upcast:
            narrow.append(recorder.held(arrival.members[0].tensor.numel() * 2, ADAPTER, "adapter"))
        else:
            _add(arrival, recorder, ADAPTER)
    for arrival, number in zip(adapters, narrow, strict=False):
        recorder.enter(ADAPTER, arrival.layer)
        _add(arrival, recorder, ADAPTER)
        recorder.release(number)


def _values(weight: torch.Tensor) -> int:
    state = getattr(weight, "quant_state", None)
    return int(state.shape.numel()) if state is not None else weight.numel()


def _sizes(workload: Workload, base: Sequence[Arrival]) -> Iterator[tuple[int | None, int]]:
    """Yield what each layer adds to the block that warms the allocator up; quantised weights count as quantised."""
    sizes: dict[int | None, float] = {}
    for arrival in base:
        tensor = arrival.members[0].tensor
        if isinstance(tensor, torch.nn.Parameter):
            if tensor.dtype is torch.uint8:
                size = _values(tensor) * 0.5
            elif workload.kbit_upcast and tensor.dtype is torch.float32:
                size = tensor.numel() * 2.0
            else:
                size = float(tensor.numel() * tensor.element_size())
            sizes[arrival.layer] = sizes.get(arrival.layer, 0.0) + size
    for layer, size in sizes.items():
        yield layer, int(size)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort names as the loader does: numbers between dots by their value."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
