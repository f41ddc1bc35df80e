"""A plan that could not be made: the longest batch decides where a card is, and nothing does where none is."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pytest_finetune.memory.hardware.detect import parse_budget
from pytest_finetune.memory.hardware.sizes import GiB
from pytest_finetune.memory.measure import Measured
from pytest_finetune.suite.steps.unplanned import Unplanned

WHY = "the step could not be traced: RuntimeError: no (torch 9.9)"


def measuring(*, needed: int) -> Unplanned:
    return Unplanned(WHY, lambda: Measured(needed - GiB, needed, needed + GiB).as_json(), None)


def test_the_measured_batch_decides_in_place_of_the_plan() -> None:
    assert measuring(needed=6 * GiB) <= parse_budget("8GiB")
    assert measuring(needed=6 * GiB) <= 6 * GiB
    with pytest.raises(pytest.fail.Exception) as told:
        assert measuring(needed=9 * GiB) <= parse_budget("8GiB")
    assert (
        str(told.value)
        == f"the longest batch took 9.0 GiB (measured), the budget is 7.4 GiB; not planned: {WHY}"
    )


def test_without_a_card_it_is_undecided_and_nothing_is_trained() -> None:
    def train() -> Mapping[str, int]:
        raise AssertionError("nothing is trained")

    with pytest.raises(pytest.skip.Exception) as told:
        assert Unplanned(WHY, train, "this machine has no accelerator") <= parse_budget("8GiB")
    assert str(told.value) == f"undecided: not planned: {WHY}; this machine has no accelerator"


def test_a_trainer_that_measured_nothing_and_a_number_of_a_plan_are_undecided_too() -> None:
    with pytest.raises(pytest.skip.Exception, match="the training measured no batch"):
        assert Unplanned(WHY, dict, None) <= parse_budget("8GiB")
    with pytest.raises(pytest.skip.Exception, match=r"so there is no memory_plan\.peak_bytes"):
        _ = measuring(needed=GiB).peak_bytes
