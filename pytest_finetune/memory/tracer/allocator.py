"""Replay a timeline through the policy of PyTorch's CUDA caching allocator.

Source: c10/cuda/CUDACachingAllocator.cpp. Sizes are rounded to 512 B. Up to 1 MiB comes from 2 MiB
segments, up to 10 MiB from 20 MiB segments, more from segments of its own rounded to 2 MiB. The smallest
free block that is large enough is taken and split, unless the rest is under 512 B (small pool) or at most 1
MiB (large pool). Neighbours are merged when freed. The driver maps each new segment below the last one, so
of equal blocks the youngest is taken. When the card is full, segments that are wholly free are given back,
and what still does not fit is an out-of-memory error.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pytest_finetune.memory.hardware.sizes import MiB
from pytest_finetune.memory.tracer.events import Born, Died, Emptied, Event

BLOCK: Final = 512
SMALL: Final = MiB
SMALL_SEGMENT: Final = 2 * MiB
LARGE_SEGMENT: Final = 20 * MiB
OWN_SEGMENT: Final = 10 * MiB
SEGMENT_STEP: Final = 2 * MiB
Call = tuple[int | None, int | None]
"""A storage and its bytes where it begins, without bytes where it ends, neither where the cache is given back."""
_APART: Final = 1 << 44
_NEAR: Final = 64 * MiB


class DoesNotFitError(MemoryError):
    """The replay ran out of its capacity, as the training would."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What the allocator held: peaks of allocated and reserved bytes, reserved at the end, flushes under pressure."""

    allocated: int
    reserved: int
    flushes: int


@dataclass(slots=True)
class _Block:
    address: int
    size: int
    small: bool
    segment: int
    before: _Block | None = None
    after: _Block | None = None
    used: bool = False


class CachingAllocator:
    """The allocator's state; `capacity` is what it may reserve (None: as much as it likes)."""

    def __init__(self, capacity: int | None = None, *, expandable: bool = False) -> None:
        self.capacity = capacity
        self.expandable = expandable
        self.allocated = self.reserved = self.flushes = 0
        self.peak_allocated = self.peak_reserved = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._at: dict[int, _Block] = {}
        self._owner: dict[int, _Block] = {}
        self._next_address = 1 << 62
        self._tail: dict[bool, _Block | None] = {True: None, False: None}

    def allocate(self, storage: int, size: int) -> None:
        """Give `storage` a block of at least `size` bytes; DoesNotFitError when the capacity is exhausted."""
        if size <= 0:
            return
        need = -(-size // BLOCK) * BLOCK
        small = need <= SMALL
        block = self._best_fit(small, need) or self._new_block(small, need)
        rest = block.size - need
        if rest >= BLOCK if small or self.expandable else rest > SMALL:
            self._split(block, need)
        block.used = True
        self._owner[storage] = block
        self.allocated += block.size
        if self.allocated > self.peak_allocated:
            self.peak_allocated = self.allocated

    def free(self, storage: int) -> None:
        """Take the block of `storage` back and merge it with its free neighbours."""
        block = self._owner.pop(storage, None)
        if block is None:
            return
        self.allocated -= block.size
        block.used = False
        if (after := block.after) is not None and not after.used:
            self._forget(after)
            self._join(block, after)
        if (before := block.before) is not None and not before.used:
            self._forget(before)
            self._join(before, block)
            block = before
        self._keep(block)

    def empty_cache(self) -> None:
        """Give back what no block uses: wholly free segments, or the free pages of expandable ones."""
        for pool in self._free.values():
            for size, address in tuple(pool):
                block = self._at[address]
                if self.expandable:
                    self._unmap(block)
                elif block.before is None and block.after is None:
                    self._forget(block)
                    del self._at[address]
                    self.reserved -= size

    def _best_fit(self, small: bool, need: int) -> _Block | None:
        pool = self._free[small]
        place = bisect.bisect_left(pool, (need, -1))
        return self._at[pool.pop(place)[1]] if place < len(pool) else None

    def _new_block(self, small: bool, need: int) -> _Block:
        if self.expandable:
            return self._map(small, need)
        if small:
            size = SMALL_SEGMENT
        else:
            size = LARGE_SEGMENT if need < OWN_SEGMENT else -(-need // SEGMENT_STEP) * SEGMENT_STEP
        self._reserve(size)
        block = _Block(self._next_address, size, small, self._next_address)
        self._next_address -= _APART
        self._at[block.address] = block
        return block

    def _reserve(self, size: int) -> None:
        if self.capacity is not None and self.reserved + size > self.capacity:
            self.flushes += 1
            self.empty_cache()
            if self.reserved + size > self.capacity:
                raise DoesNotFitError(size)
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    def _map(self, small: bool, need: int) -> _Block:
        """Grow the pool's one segment at its end by whole pages, using what is free there already."""
        tail = self._tail[small]
        reuse = tail if tail is not None and not tail.used else None
        missing = need - (reuse.size if reuse else 0)
        page = SMALL_SEGMENT if small else LARGE_SEGMENT
        size = -(-missing // page) * page
        if reuse is not None:
            self._forget(reuse)
            reuse.used = True
        self._reserve(size)
        if reuse is not None:
            reuse.used = False
            reuse.size += size
            return reuse
        base = self._next_address if tail is None else tail.address + tail.size
        if tail is None:
            self._next_address -= _APART
        block = _Block(base, size, small, base if tail is None else tail.segment, before=tail)
        if tail is not None:
            tail.after = block
        self._at[block.address] = block
        self._tail[small] = block
        return block

    def _unmap(self, block: _Block) -> None:
        """Return the whole pages inside a free block; the hole they leave is modelled as a shorter block."""
        page = SMALL_SEGMENT if block.small else LARGE_SEGMENT
        first = -(-(block.address - block.segment) // page) * page
        last = (block.address + block.size - block.segment) // page * page
        pages = max(0, last - first)
        if pages:
            self._forget(block)
            self.reserved -= pages
            block.size -= pages
            if block.size:
                self._keep(block)
            else:
                self._unlink(block)

    def _unlink(self, block: _Block) -> None:
        del self._at[block.address]
        if block.before is not None:
            block.before.after = block.after
        if block.after is not None:
            block.after.before = block.before
        if self._tail[block.small] is block:
            self._tail[block.small] = block.before

    def _split(self, block: _Block, need: int) -> None:
        rest = _Block(
            block.address + need,
            block.size - need,
            block.small,
            block.segment,
            before=block,
            after=block.after,
        )
        if block.after is not None:
            block.after.before = rest
        block.size, block.after = need, rest
        self._at[rest.address] = rest
        if self._tail[block.small] is block:
            self._tail[block.small] = rest
        self._keep(rest)

    def _join(self, left: _Block, right: _Block) -> None:
        left.size += right.size
        left.after = right.after
        if right.after is not None:
            right.after.before = left
        if self._tail[left.small] is right:
            self._tail[left.small] = left
        del self._at[right.address]

    def _keep(self, block: _Block) -> None:
        bisect.insort(self._free[block.small], (block.size, block.address))

    def _forget(self, block: _Block) -> None:
        pool = self._free[block.small]
        del pool[bisect.bisect_left(pool, (block.size, block.address))]


def replay(events: Iterable[Event], capacity: int | None = None, *, expandable: bool = False) -> Replay:
    """Run a timeline through the allocator; DoesNotFitError when `capacity` bytes are not enough."""
    return _replay(_calls(events), capacity, expandable=expandable)


def _calls(events: Iterable[Event]) -> list[Call]:
    """Return what the allocator is asked for, once for all replays of a timeline."""
    calls: list[Call] = []
    for event in events:
        if isinstance(event, Born):
            calls.append((event.storage, event.bytes))
        elif isinstance(event, Died):
            calls.append((event.storage, None))
        elif isinstance(event, Emptied):
            calls.append((None, None))
    return calls


def _replay(calls: Iterable[Call], capacity: int | None, *, expandable: bool) -> Replay:
    allocator = CachingAllocator(capacity, expandable=expandable)
    allocate, free = allocator.allocate, allocator.free
    for storage, size in calls:
        if size is not None and storage is not None:
            allocate(storage, size)
        elif storage is not None:
            free(storage)
        else:
            allocator.empty_cache()
    return Replay(allocator.peak_allocated, allocator.peak_reserved, allocator.flushes)


def smallest_budget(
    events: Iterable[Event],
    free: Replay | None = None,
    *,
    expandable: bool = False,
    within: int | None = None,
    near: int | None = None,
) -> int:
    """Return the smallest capacity that the replay survives, to `within` bytes (never too small; default 0.05%).

    Found by bisection between the peak of live bytes and `free`, the replay without pressure; `near` is a guess that
    shortens the search.
    """
    calls = _calls(events)
    free = free or _replay(calls, None, expandable=expandable)

    def survives(capacity: int) -> bool:
        try:
            _replay(calls, capacity, expandable=expandable)
        except DoesNotFitError:
            return False
        return True

    low, high = free.allocated - LARGE_SEGMENT, free.reserved
    step = max(MiB, free.reserved // 2048) if within is None else within
    for bound in (near - _NEAR, near + _NEAR) if near is not None else ():
        if low < bound < high:
            low, high = (low, bound) if survives(bound) else (bound, high)
    while high - low > step:
        middle = (low + high) // 2
        low, high = (low, middle) if survives(middle) else (middle, high)
    return high
