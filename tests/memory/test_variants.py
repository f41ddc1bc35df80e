"""The race of a load: how far the readers are ahead decides what lies on the card unquantised."""

from __future__ import annotations

from pytest_finetune.memory.hardware.sizes import MiB
from pytest_finetune.memory.tracer.allocator import replay
from pytest_finetune.memory.tracer.events import READ, READ_WIDE, Born, Died, Entered, Event, live_peak
from pytest_finetune.memory.tracer.variants import PACES, RACES, variants

TENSORS = 24
WIDE, NARROW = 8 * MiB, 2 * MiB


def load() -> list[Event]:
    """Read tensors of 8 MiB and keep a quarter of each."""
    events: list[Event] = [Entered("load", None)]
    for number in range(0, 2 * TENSORS, 2):
        wide, kept = (
            Born(number, WIDE, "frozen weights", READ_WIDE),
            Born(number + 1, NARROW, "frozen weights", READ),
        )
        events += [wide, kept, Died(number)]
    return [*events, Entered("forward", None)]


def reserved(pace: int) -> int:
    (timeline,) = variants(load(), "threaded", 0, [pace])
    return replay(timeline).reserved


def test_the_slowest_race_holds_all_but_the_first_tensor_in_16_bits_and_a_load_in_turn_holds_one() -> None:
    (slowest,) = variants(load(), "threaded", 0, RACES[-1:])
    assert live_peak(slowest).bytes == (TENSORS - 1) * WIDE + 2 * NARROW
    (in_turn,) = variants(load(), "streamed", 0)
    assert live_peak(in_turn).bytes == TENSORS * NARROW + WIDE
    assert reserved(RACES[-1]) > 2 * reserved(RACES[0])


def test_the_interval_of_all_races_holds_the_estimate() -> None:
    ends = [reserved(pace) for pace in RACES]
    assert min(ends) <= max(reserved(pace) for pace in PACES) <= max(ends)
    assert len(variants(load(), "threaded", 0)) == len(PACES)
