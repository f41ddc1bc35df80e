"""The CUDA context of the card that is here: measured once for a card, its driver and the installed torch, and kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pytest_finetune.fingerprint import digest, package_versions
from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.hardware.sizes import GiB, MiB

if TYPE_CHECKING:
    from pytest_finetune.store import Store

# What lies outside is no context: another process took or freed memory meanwhile.
LIKELY: Final = (50 * MiB, 4 * GiB)
TIMEOUT_S: Final = 120


def with_context(budget: Budget, index: int, store: Store, measure: Callable[[int], int | None]) -> Budget:
    """Return the budget of a card that is here with the context measured on it.

    The figure of the card's family stays where nothing, or nothing likely, can be measured.
    """
    if budget.source != "measured" or budget.device != "cuda":
        return budget
    versions = package_versions(("torch",))
    name = f"context-{digest({'card': budget.name, 'driver': budget.driver, **versions})[:16]}"
    kept = store.last(name)
    found = kept["bytes"] if kept is not None else measure(index)
    if found is None or not LIKELY[0] <= found <= LIKELY[1]:
        return budget
    if kept is None:
        store.remember(name, {"card": budget.name, "driver": budget.driver, "bytes": found, **versions})
    return replace(budget, family=replace(budget.family, context_bytes=found))


def measure_elsewhere(index: int) -> int | None:
    """Measure in a process of its own, so that this one initialises nothing; None where that process fails."""
    command = [sys.executable, "-m", "pytest_finetune.memory.hardware.context_probe", str(index)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    last = done.stdout.strip().rpartition("\n")[2]
    return int(last) if done.returncode == 0 and last.lstrip("-").isdigit() else None
