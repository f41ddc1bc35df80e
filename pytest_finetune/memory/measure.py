"""Measure on a GPU what the plan predicted.

Two real steps of the longest batch, before the training starts.

The steps really run, forward to optimizer, and leave no trace: trained weights and random states are put
back, and the optimizer that was used is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.memory.explain import one_line
from pytest_finetune.memory.hardware import Budget
from pytest_finetune.memory.sizes import size_text

if TYPE_CHECKING:
    import torch

    from pytest_finetune.memory.plan import MemoryPlan

STEPS: Final = 2


class TooLargeError(MemoryError):
    """The longest batch was measured, and it does not fit the budget; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Peaks of the longest batch in bytes; `process` is what the driver counts, context included."""

    allocated: int
    reserved: int
    process: int

    def error(self, plan: MemoryPlan) -> float:
        """Return how far the plan's peak lies above the measured one, as a signed fraction."""
        return plan.peak_bytes / self.process - 1

    def as_json(self, plan: MemoryPlan) -> dict[str, Any]:
        """Return prediction, measurement and error as the record keeps them."""
        return {
            "predicted_peak_bytes": plan.peak_bytes,
            "measured_peak_bytes": self.process,
            "measured_allocated_bytes": self.allocated,
            "measured_reserved_bytes": self.reserved,
            "error": self.error(plan),
        }


def measure_longest(
    run_step: Callable[[], None], parameters: Iterable[torch.nn.Parameter], device: str
) -> Measured:
    """Run `run_step` twice and return the peaks.

    Weights, gradients and random states are as before afterwards.

    `run_step` does one optimizer step on the longest batch with an optimizer of its own; `parameters` are
    those that it trains. Raises torch.OutOfMemoryError when the card is too small for the batch.
    """
    import torch

    kept = list(parameters)
    place = torch.device(device)
    with _restored(kept, place):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(place)
        for _ in range(STEPS):
            run_step()
        torch.cuda.synchronize(place)
        free, total = torch.cuda.mem_get_info(place)
        outside = total - free - torch.cuda.memory_reserved(place)
        reserved = torch.cuda.max_memory_reserved(place)
        measured = Measured(torch.cuda.max_memory_allocated(place), reserved, reserved + outside)
    torch.cuda.empty_cache()
    return measured


def refuse_unless_fits(measured: Measured, plan: MemoryPlan, budget: Budget) -> None:
    """Raise TooLargeError when the measured peak is over the budget.

    With the first remedy that is planned to fit.

    The budget is judged by what the allocator needs: what it merely keeps in its cache is given back under
    pressure.
    """
    needed = measured.process - measured.reserved + measured.allocated
    if needed <= budget.usable_bytes:
        return
    lines = [
        f"the longest batch does not fit: it took {size_text(needed)} (measured), the budget is "
        f"{size_text(budget.usable_bytes)} ({budget.name}, {budget.headroom:.0%} headroom kept)",
        f"  {one_line(plan)}: {measured.error(plan):+.1%} from the measurement",
    ]
    enough = plan.remedies(budget).enough
    if enough:
        lines.append(
            f"  change one thing:  {enough[0].change} -> {size_text(enough[0].needed_bytes)} (predicted)"
        )
    raise TooLargeError("\n".join(lines))


@contextmanager
def _restored(parameters: list[torch.nn.Parameter], device: torch.device) -> Iterator[None]:
    """Put weights and random states back, on the card and on the host, whatever happens in the block."""
    import torch

    with torch.no_grad():
        before = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
    states = _random_states(device)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, before, strict=True):
                parameter.copy_(values)
                parameter.grad = None
        _set_random_states(states, device)


def _random_states(device: torch.device) -> Mapping[str, Any]:
    import random

    import numpy
    import torch

    states = {"python": random.getstate(), "numpy": numpy.random.get_state(), "cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    import random

    import numpy
    import torch

    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
