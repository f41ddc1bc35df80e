from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.memory.hardware.sizes import MiB
from pytest_finetune.memory.tracer.allocator import CachingAllocator, DoesNotFitError, replay, smallest_budget
from pytest_finetune.memory.tracer.events import Born, Died, Event, live_peak


def born(storage: int, size: int) -> Born:
    return Born(storage, size, "activations", "test")


@st.composite
def timelines(draw: st.DrawFn) -> list[Event]:
    """Births of some bytes to some MiB, each followed somewhere by at most one death."""
    events: list[Event] = []
    alive: list[int] = []
    sizes = st.integers(1, 4096) | st.integers(1, 40 * MiB)
    for storage, (size, deaths) in enumerate(
        draw(st.lists(st.tuples(sizes, st.lists(st.integers(0, 99), max_size=2)), min_size=1, max_size=40))
    ):
        events.append(born(storage, size))
        alive.append(storage)
        events.extend(Died(alive.pop(death % len(alive))) for death in deaths if alive)
    return events


def test_a_byte_takes_a_block_and_a_small_segment() -> None:
    held = replay([born(1, 1)])
    assert (held.allocated, held.reserved) == (512, 2 * MiB)


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (MiB, 2 * MiB),
        (MiB + 1, 20 * MiB),
        (10 * MiB - 512, 20 * MiB),
        (10 * MiB, 10 * MiB),
        (11 * MiB, 12 * MiB),
    ],
)
def test_segments_have_the_sizes_of_the_allocator(size: int, segment: int) -> None:
    assert replay([born(1, size)]).reserved == segment


def test_a_rest_of_a_mebibyte_stays_with_its_block() -> None:
    assert replay([born(1, 11 * MiB)]).allocated == 12 * MiB
    assert replay([born(1, 10 * MiB + 512)]).allocated == 10 * MiB + 512


def test_a_freed_block_is_used_again() -> None:
    held = replay([born(1, 50 * MiB), Died(1), born(2, 50 * MiB)])
    assert held.reserved == 50 * MiB


def test_neighbours_merge_when_they_are_freed() -> None:
    first: list[Event] = [born(1, 4 * MiB), born(2, 4 * MiB), born(3, 4 * MiB), Died(1), Died(2)]
    assert replay([*first, born(4, 8 * MiB)]).reserved == 20 * MiB


def test_a_hole_that_is_too_small_costs_a_new_segment() -> None:
    events: list[Event] = [born(1, 30 * MiB), Died(1), born(2, 20 * MiB), born(3, 20 * MiB)]
    assert replay(events).reserved == 30 * MiB + 20 * MiB


def test_pressure_gives_free_segments_back() -> None:
    events: list[Event] = [born(1, 30 * MiB), Died(1), born(2, 40 * MiB)]
    held = replay(events, capacity=40 * MiB)
    assert held.flushes == 1
    assert smallest_budget(events, within=MiB) <= 41 * MiB


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(DoesNotFitError):
        replay([born(1, 30 * MiB)], capacity=20 * MiB)


def test_expandable_segments_leave_no_holes() -> None:
    events: list[Event] = [born(1, 30 * MiB), Died(1), born(2, 20 * MiB), born(3, 20 * MiB)]
    assert replay(events, expandable=True).reserved == 40 * MiB


def test_expandable_segments_unmap_under_pressure() -> None:
    events: list[Event] = [born(1, 100 * MiB), born(2, 20 * MiB), Died(1), born(3, 110 * MiB)]
    assert replay(events, capacity=140 * MiB, expandable=True).flushes >= 1


@given(timelines())
def test_reserved_holds_allocated_holds_live(events: list[Event]) -> None:
    held = replay(events)
    assert live_peak(events).bytes <= held.allocated <= held.reserved


@given(timelines())
def test_the_smallest_budget_survives_and_less_does_not(events: list[Event]) -> None:
    smallest = smallest_budget(events, within=MiB)
    replay(events, capacity=smallest)
    assert live_peak(events).bytes <= smallest <= replay(events).reserved


@given(timelines(), st.booleans())
def test_everything_freed_leaves_an_allocator_that_can_give_all_back(
    events: list[Event], expandable: bool
) -> None:
    allocator = CachingAllocator(expandable=expandable)
    alive = set()
    for event in events:
        if isinstance(event, Born):
            allocator.allocate(event.storage, event.bytes)
            alive.add(event.storage)
        elif isinstance(event, Died):
            allocator.free(event.storage)
            alive.discard(event.storage)
    for storage in alive:
        allocator.free(storage)
    assert allocator.allocated == 0
    allocator.empty_cache()
    assert allocator.reserved == 0


@given(timelines(), st.integers(0, 400 * MiB))
def test_a_guess_shortens_the_search_and_changes_nothing(events: list[Event], near: int) -> None:
    plain, guessed = smallest_budget(events, within=MiB), smallest_budget(events, within=MiB, near=near)
    assert abs(plain - guessed) <= MiB
    replay(events, capacity=guessed)
