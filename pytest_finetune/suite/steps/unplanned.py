"""A plan that could not be made: the longest batch decides in its place, measured on the card that is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

import pytest

from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.measure import Measured
from pytest_finetune.wording import size


class Unplanned:
    """What `memory_plan` is where the step could not be traced.

    ``memory_plan <= gpu_budget`` trains, which measures the longest batch first, and compares that; where nothing can
    be measured the test is skipped as undecided. So is a test that asks for anything else of a plan.
    """

    def __init__(
        self, because: str, measured: Callable[[], Mapping[str, int]], unmeasured: str | None
    ) -> None:
        self._because, self._measured, self._unmeasured = because, measured, unmeasured

    def __le__(self, budget: Budget | int) -> bool:
        """Tell whether the measured batch stays within the budget."""
        if not isinstance(budget, Budget | int):
            return NotImplemented
        if self._unmeasured is not None:
            self._undecided(self._unmeasured)
        found = Measured.from_json(self._measured())
        if found is None:
            self._undecided("and the training measured no batch")
        usable = budget.usable_bytes if isinstance(budget, Budget) else budget
        if found.needed > usable:
            took = f"the longest batch took {size(found.needed)} (measured), the budget is {size(usable)}"
            pytest.fail(f"{took}; {self!r}", pytrace=False)
        return True

    def __getattr__(self, name: str) -> NoReturn:
        """Skip a test that asks for a number which only a plan has."""
        if name.startswith("_"):
            raise AttributeError(name)
        self._undecided(f"so there is no memory_plan.{name}")

    def __repr__(self) -> str:
        return f"not planned: {self._because}"

    def _undecided(self, why: str) -> NoReturn:
        pytest.skip(f"undecided: {self!r}; {why}")
