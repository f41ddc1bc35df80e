"""Turn a recorded timeline into those to replay: the card's workspaces, the warm-up in one piece, a race of loads."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Final

from pytest_finetune.memory.hardware.sizes import MiB
from pytest_finetune.memory.tracer.events import (
    CUBLAS,
    READ,
    READ_WIDE,
    WARM_UP,
    Born,
    Died,
    Entered,
    Event,
    Timeline,
)

THREADS: Final = 4
# Four threads read the checkpoint, one quantises. In units of the bytes that a reader copies meanwhile (about 1 MiB a
# millisecond): 2 ms of work for each tensor beside the copying, 2 to 3 ms to quantise it. No two such loads run
# alike, so both paces are replayed. How far the readers really run ahead is bounded by nothing but the model: the last
# pace is the race in which all of it lies there in 16 bits but for the tensor that is quantised first.
_READ_COST: Final = 2 * MiB
PACES: Final = (2 * MiB, 3 * MiB)
RACES: Final = tuple(int(pace * MiB) for pace in (0.25, 1, 2, 3, 4, 6, 10, 1e6))


def variants(
    events: Timeline, loading: str, workspace: int, paces: Sequence[int] = PACES
) -> list[list[Event]]:
    """Return the timelines to replay; more than one when the load is a race, one for each of `paces`."""
    whole = _warmed(
        event._replace(bytes=workspace) if isinstance(event, Born) and event.op == CUBLAS else event
        for event in events
    )
    if loading != "threaded":
        return [whole]
    return [_raced(whole, pace) for pace in paces]


def _warmed(events: Iterator[Event]) -> list[Event]:
    """Join the layers' shares of the warm-up into the one block that is really taken."""
    timeline = list(events)
    shares = [event for event in timeline if isinstance(event, Born) and event.op == WARM_UP]
    if not shares:
        return timeline
    numbers = {event.storage for event in shares}
    rest = [event for event in timeline if not (isinstance(event, Born | Died) and event.storage in numbers)]
    size = sum(event.bytes for event in shares) // 2 * 2
    return [Born(shares[0].storage, size, shares[0].part, WARM_UP), Died(shares[0].storage), *rest]


def _raced(events: Timeline, pace: int) -> list[Event]:
    """Let `THREADS` readers run ahead of the thread that quantises, which spends `pace` on each tensor."""
    last = max(
        (i for i, event in enumerate(events) if isinstance(event, Born) and event.op == READ), default=-1
    )
    end = next((i for i, event in enumerate(events) if i > last and isinstance(event, Entered)), last + 1)
    before = [
        event for event in events[:2] if isinstance(event, Born | Died) and _is_warm_up(event, events[0])
    ]
    arrivals = list(_arrivals(events[len(before) : end]))
    begun, read = _reading([born.bytes for born, _ in arrivals])
    moments: list[tuple[float, int, int]] = [(begun[i], 0, i) for i in range(len(arrivals))]
    clock = 0.0
    for index, (_, rest) in enumerate(arrivals):
        clock = max(clock, read[index])
        moments.append((clock, 1, index))
        clock += pace if rest else 0
    raced: list[Event] = [*before]
    for _, done, index in sorted(moments):
        born, rest = arrivals[index]
        raced += rest if done else [born]
    return [*raced, *events[end:]]


def _is_warm_up(event: Born | Died, first: Event) -> bool:
    return isinstance(first, Born) and first.op == WARM_UP and event.storage == first.storage


def _arrivals(events: Timeline) -> Iterator[tuple[Born, list[Event]]]:
    """Yield each tensor read: its birth, and what quantising it does (nothing for one that stays as it is)."""
    position = 0
    timeline: list[Event] = [event for event in events if not isinstance(event, Entered)]
    while position < len(timeline):
        born = timeline[position]
        assert isinstance(born, Born)
        end = position + 1
        if born.op == READ_WIDE:
            end = timeline.index(Died(born.storage), position) + 1
        yield born, timeline[position + 1 : end]
        position = end


def _reading(sizes: Sequence[int]) -> tuple[list[float], list[float]]:
    """Return when each tensor's reading begins and ends, the next free thread taking the next tensor."""
    free = [0.0] * THREADS
    begun, read = [], []
    for size in sizes:
        start = heapq.heappop(free)
        begun.append(start)
        read.append(start + size + _READ_COST)
        heapq.heappush(free, read[-1])
    return begun, read
