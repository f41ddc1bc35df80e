"""Each part of the work counts its own seconds, and together they are all of them."""

from __future__ import annotations

import pytest

from pytest_finetune.clock import Clock


def test_what_a_part_names_is_not_counted_by_the_one_around_it() -> None:
    ticks = iter([0.0, 1.0, 3.0, 4.0, 8.0, 10.0])
    clock = Clock(lambda: next(ticks))
    with clock.spent_on("training"):  # from 0 to 10
        with clock.spent_on("load"):  # from 1 to 3
            pass
        with pytest.raises(ValueError, match="lost"), clock.spent_on("load"):  # from 4 to 8
            raise ValueError("lost")
    assert clock.seconds == {"load": 6.0, "training": 4.0}


def test_what_another_clock_counted_is_taken_out_of_the_block_around_it() -> None:
    ticks = iter([0.0, 10.0])
    clock = Clock(lambda: next(ticks))
    with clock.spent_on("training"):
        clock.add({"steps": 7.0, "load": 2.0})
    assert clock.facts() == {"steps": 7.0, "load": 2.0, "training": 1.0}


def test_who_listens_hears_each_part_and_the_one_around_it_again() -> None:
    heard: list[str] = []
    clock = Clock(tell=heard.append)
    with clock.spent_on("training"), pytest.raises(ValueError, match="lost"), clock.spent_on("load"):
        raise ValueError("lost")
    assert heard == ["training", "load", "training", ""]
