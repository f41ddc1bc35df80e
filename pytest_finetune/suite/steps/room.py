"""What to say where the disk of the store was full before a training was kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_finetune.memory.hardware.detect import disk_free_bytes
from pytest_finetune.training.checkpoints import whole_steps
from pytest_finetune.wording import size

if TYPE_CHECKING:
    from pytest_finetune.fingerprint import Key
    from pytest_finetune.memory.measure import Fit
    from pytest_finetune.store import Store


def no_room(store: Store, key: Key, fit: Fit | None) -> Iterator[str]:
    """Yield how full the disk is, what the training writes there, and what of it is kept."""
    free = f"{size(disk_free_bytes(store.root))} are free on the disk of {store.root}"
    disk = fit.plan.disk if fit is not None and fit.plan is not None else None
    if disk is not None:
        free += (
            f"; the training writes up to {size(disk.peak_bytes)} there ({disk.kept + 1} checkpoints "
            f"{size(disk.checkpoints_bytes)}, adapter {size(disk.adapter_bytes)}, bundle {size(disk.bundle_bytes)})"
        )
    yield free
    steps = whole_steps(store.checkpoints(key))
    if steps:
        yield f"a whole checkpoint of step {steps[-1]} is kept: once there is room, the same command goes on from there"
    else:
        yield "no checkpoint was whole yet: nothing is kept, and the next run begins anew"
