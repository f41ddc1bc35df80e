"""Measure on a GPU what the plan predicted: two real steps of the longest batch, before the training starts.

The steps really run, forward to optimizer, and leave no trace: trained weights and random states are put
back, and the optimizer that was used is thrown away.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from pytest_finetune.errors import FinetuneError
from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.hardware.detect import own_bytes
from pytest_finetune.memory.plan.remedies import find_remedies
from pytest_finetune.wording import size

if TYPE_CHECKING:
    import torch

    from pytest_finetune.memory.plan.plan import MemoryPlan
    from pytest_finetune.memory.plan.planner import Planner

STEPS: Final = 2


class TooLargeError(FinetuneError):
    """The longest batch was measured, and it does not fit the budget; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a training is measured against: the card, and the plan, None when the model could not be planned.

    The planner is asked for remedies when the training does not fit.
    """

    budget: Budget
    plan: MemoryPlan | None
    planner: Planner

    @property
    def judged(self) -> MemoryPlan | None:
        """Return the plan for the kernels of this card."""
        if self.plan is None or not self.budget.comparable:
            return self.plan
        return self.plan.on(self.budget.family)

    def first_remedy(self, limit: int) -> str | None:
        """Return the first change that is planned to need at most `limit` bytes, with its number; None without one.

        Each is planned anew, which takes seconds.
        """
        plan = self.judged
        if plan is None:
            return None
        for remedy in find_remedies(plan, limit, self.planner).all:
            if remedy.enough:
                return f"{remedy.change} -> {size(remedy.needed_bytes)} (predicted)"
        return None


@dataclass(frozen=True, slots=True)
class Measured:
    """Peaks of the longest batch in bytes; `process` is what the driver counts, context included."""

    allocated: int
    reserved: int
    process: int

    @property
    def needed(self) -> int:
        """Return the bytes without what the allocator merely keeps in its cache: that is given back under pressure."""
        return self.process - self.reserved + self.allocated

    @classmethod
    def from_json(cls, tree: Mapping[str, int]) -> Measured | None:
        """Read what `as_json` wrote; None where nothing, or not everything, was measured."""
        try:
            return cls(
                tree["measured_allocated_bytes"], tree["measured_reserved_bytes"], tree["measured_peak_bytes"]
            )
        except KeyError:
            return None

    def error(self, plan: MemoryPlan) -> float:
        """Return how far the plan's peak lies above the measured one, as a signed fraction."""
        return plan.peak_bytes / self.process - 1

    def as_json(self) -> dict[str, int]:
        """Return the measurement as the record keeps it."""
        return {
            "measured_peak_bytes": self.process,
            "measured_allocated_bytes": self.allocated,
            "measured_reserved_bytes": self.reserved,
        }


class Meter(Protocol):
    """What counts the memory of a device."""

    def begin(self) -> None:
        """Give cached memory back and count peaks anew."""

    def read(self) -> Measured:
        """Return the peaks since `begin`."""


class CudaMeter:
    """The caching allocator's own count, and what the driver says of this process.

    `context_bytes` stand for the CUDA context where the driver does not say.
    """

    def __init__(self, device: str, context_bytes: int) -> None:
        self._device, self._context = device, context_bytes

    def begin(self) -> None:
        """Give cached memory back and count peaks anew."""
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(torch.device(self._device))

    def read(self) -> Measured:
        """Return the peaks since `begin`."""
        import torch

        place = torch.device(self._device)
        torch.cuda.synchronize(place)
        now, own = torch.cuda.memory_reserved(place), own_bytes(self._device)
        outside = own - now if own is not None and own > now else self._context
        reserved = torch.cuda.max_memory_reserved(place)
        return Measured(torch.cuda.max_memory_allocated(place), reserved, reserved + outside)


def measure_longest(
    run_step: Callable[[], None], parameters: Iterable[torch.nn.Parameter], meter: Meter
) -> Measured:
    """Run `run_step` twice and return the peaks; weights, gradients and random states are as before afterwards.

    `run_step` does one optimizer step on the longest batch with an optimizer of its own; `parameters` are those that it
    trains. Raises torch.OutOfMemoryError when the card is too small for the batch.
    """
    with _restored(list(parameters)):
        meter.begin()
        for _ in range(STEPS):
            run_step()
        measured = meter.read()
    meter.begin()
    return measured


def refuse_unless_fits(measured: Measured, fit: Fit) -> None:
    """Raise TooLargeError when the measured batch needs more than the budget, with the first remedy planned to fit."""
    budget, plan = fit.budget, fit.judged
    needed = measured.needed
    if needed <= budget.usable_bytes:
        return
    lines = [
        f"not trained: the longest batch took {size(needed)} (measured), the budget is "
        f"{size(budget.usable_bytes)} ({budget.name}, {budget.headroom:.0%} headroom kept)"
    ]
    if crowd := budget.crowded():
        lines.append(f"  {crowd}")
    if plan is not None and budget.source == "measured":
        lines.append(f"  {plan!r}: {measured.error(plan):+.1%} from the measurement")
    elif plan is not None:
        lines.append(f"  {plan!r} is for {budget.name}, and is no measure of the card that is here")
    if remedy := fit.first_remedy(budget.usable_bytes):
        lines.append(f"  change one thing:  {remedy}")
    if needed <= budget.with_headroom(0.0).usable_bytes:
        lines.append("  it fits when less of the card is kept free: --finetune-headroom=0%")
    raise TooLargeError("\n".join(lines))


@contextmanager
def _restored(parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """Put weights and random states back, on the card and on the host, whatever happens in the block."""
    import torch

    with torch.no_grad():
        before = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
    try:
        with random_state():
            yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, before, strict=True):
                parameter.copy_(values)
                parameter.grad = None


@contextmanager
def random_state() -> Iterator[None]:
    """Give the block random numbers that the rest of the process does not miss."""
    import numpy
    import torch

    python, array, cpu = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(array)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
