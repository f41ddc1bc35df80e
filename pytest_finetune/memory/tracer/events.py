"""The life of every storage during a step, in order, and what can be read off it without an allocator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

PARTS: Final = (
    "frozen weights",
    "gathered",
    "adapter",
    "gradients",
    "optimizer",
    "activations",
    "logits and loss",
    "dequantised weights",
    "temporaries",
    "inputs",
    "workspaces",
)

CUBLAS: Final = "cublas workspace"
WARM_UP: Final = "warm-up"
READ: Final = "read"
READ_WIDE: Final = "read in 16 bits"
UPCAST: Final = "upcast"
ADAPTER: Final = "adapter"
LOADED: Final = frozenset({READ, UPCAST, ADAPTER})


class Born(NamedTuple):
    """A storage begins: its number and bytes, the part of the breakdown it belongs to, the operator that made it."""

    storage: int
    bytes: int
    part: str
    op: str


class Died(NamedTuple):
    """A storage ends."""

    storage: int


class Became(NamedTuple):
    """A storage turns out to belong to another part: a temporary that is kept as a gradient.

    With `bytes` it leaves only so many, which take its place: this process's share of it.
    """

    storage: int
    part: str
    bytes: int | None = None


class Entered(NamedTuple):
    """A phase begins, or a layer inside it (`layer` is None outside the repeated layers)."""

    phase: str
    layer: int | None


class Emptied(NamedTuple):
    """The cache is given back on purpose, as ``torch.cuda.empty_cache()`` does."""


Event = Born | Died | Became | Entered | Emptied
Timeline = Sequence[Event]


@dataclass(frozen=True, slots=True)
class Peak:
    """The moment with the most live bytes: how many, of which parts, in which phase and layer."""

    bytes: int
    parts: Mapping[str, int]
    phase: str
    layer: int | None
    phases: Mapping[str, int]


def live_peak(events: Iterable[Event], *, rounding: int = 512) -> Peak:
    """Find the peak of live bytes, each storage rounded up to `rounding` bytes as the allocator does; 1 rounds nothing.

    A storage counts for the part that it belongs to in the end.
    """
    timeline = tuple(events)
    final = {event.storage: event.part for event in timeline if isinstance(event, Born | Became)}
    sizes: dict[int, int] = {}
    parts: Counter[str] = Counter()
    phases: dict[str, int] = {}
    live, phase, layer = 0, "load", None
    best = Peak(0, {}, phase, layer, phases)
    for position, event in enumerate(timeline):
        if isinstance(event, Born):
            sizes[event.storage] = size = -(-event.bytes // rounding) * rounding
            parts[final[event.storage]] += size
            live += size
            phases[phase] = max(phases.get(phase, 0), live)
            if live > best.bytes and not _rises(timeline, position):
                best = Peak(live, dict(+parts), phase, layer, phases)
        elif isinstance(event, Died):
            size = sizes.pop(event.storage)
            parts[final[event.storage]] -= size
            live -= size
        elif isinstance(event, Entered):
            phase, layer = event.phase, event.layer
            phases.setdefault(phase, live)
    return best


def _rises(timeline: Timeline, position: int) -> bool:
    """Tell whether the next event is a birth as well, so that this moment cannot be the peak."""
    return position + 1 < len(timeline) and isinstance(timeline[position + 1], Born)
