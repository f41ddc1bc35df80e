"""What one of several processes holds of a model that they share out (FSDP 2), and what it gathers besides.

Each weight is cut along its first dimension into as many equal shares as there are processes, the last one padded. So
are its gradient and what the optimizer keeps for it. Before a layer runs, forward and backward, its weights are
gathered whole; activations are each process's own. The sizes follow from the code of
`torch.distributed.fsdp.fully_shard` and of accelerate's `fsdp2_prepare_model`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pytest_finetune.memory.tracer.events import Became, Born, Died, Event, Timeline
from pytest_finetune.memory.tracer.model import repeated_layers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

GATHERED: Final = "gathered"


def share_of(weight: torch.Tensor, ranks: int) -> int:
    """Return the bytes of one process's share of a weight, its padding included."""
    size = weight.numel() * weight.element_size()
    rows = weight.shape[0] if weight.dim() else 1
    return size if ranks == 1 or not size else -(-rows // ranks) * (size // rows)


def gathered_bytes(model: PreTrainedModel, ranks: int) -> int:
    """Return what a process holds beside its shares at most, taken as held throughout.

    A layer is whole while it runs, and the next one is gathered meanwhile: the largest unit twice. The head and what
    belongs to no layer stay whole between forward and backward. A layer's gradients are whole before they are shared
    out, and are copied into one buffer for that.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    units = [list(layer.parameters()) for layer in repeated_layers(model)]
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if head is None or embedding.weight is not head.weight:
        units.append(list(embedding.parameters()))
    in_units = {id(weight) for unit in units for weight in unit}
    kept = [weight for weight in model.parameters() if id(weight) not in in_units]
    trained = [[weight for weight in unit if weight.requires_grad] for unit in (*units, kept)]
    largest = max(_whole(unit, ranks) for unit in units)
    return 2 * largest + _whole(kept, ranks) + 2 * max(_whole(unit, ranks) for unit in trained)


def _whole(weights: Iterable[torch.nn.Parameter], ranks: int) -> int:
    return sum(ranks * share_of(weight, ranks) for weight in weights)


def settled(events: Timeline) -> list[Event]:
    """Return the timeline with every storage that leaves a share behind ended there, and the share in its place."""
    count = max((event.storage for event in events if isinstance(event, Born)), default=0)
    shares: dict[int, int] = {}
    written: list[Event] = []
    for event in events:
        if isinstance(event, Became) and event.bytes is not None:
            if event.storage not in shares:
                count += 1
                shares[event.storage] = count
                written += [Died(event.storage), Born(count, event.bytes, event.part, "share")]
        elif isinstance(event, Died) and event.storage in shares:
            written.append(Died(shares[event.storage]))
        else:
            written.append(event)
    return written
