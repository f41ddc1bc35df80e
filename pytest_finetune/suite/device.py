"""The device of a session: as asked for, or the accelerator that is here; an xdist worker leases a GPU of its own."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_finetune import GiB
from pytest_finetune.memory.hardware import nvidia
from pytest_finetune.memory.hardware.detect import accelerator, detect
from pytest_finetune.memory.hardware.leases import lease_gpu
from pytest_finetune.suite import xdist
from pytest_finetune.suite.progress import ProgressLine

if TYPE_CHECKING:
    from pytest_finetune.memory.hardware.leases import Lease


class ChosenDevice:
    """Where the session runs, settled when it is first needed: only then does a worker wait for a GPU.

    `on_lease` is called when a GPU was leased; without `leases` none is, for the work is done elsewhere.
    """

    def __init__(
        self, config: pytest.Config, asked: str, on_lease: Callable[[], None], *, leases: bool = True
    ) -> None:
        self._config = config
        self._asked = asked
        self._on_lease = on_lease
        self._leases = leases
        self.lease: Lease | None = None
        self.warnings: list[str] = []

    @cached_property
    def name(self) -> str:
        """The device to run on; in an xdist worker a leased GPU, which is waited for where all are leased."""
        if not (self._leases and xdist.is_worker(self._config) and self.known.startswith("cuda")):
            return self.known
        self.lease = self._leased()
        if self.lease is None:
            return self.known
        self._on_lease()
        return self.lease.device

    @property
    def known(self) -> str:
        """The device as far as it is known without waiting for one."""
        if self.lease is not None:
            return self.lease.device
        if self._asked != "auto":
            return self._asked
        return accelerator()

    def release(self) -> None:
        """Give a leased GPU and its memory back: a worker's process outlives its session, and others may wait."""
        if self.lease is None:
            return
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            gc.collect()
            torch.cuda.empty_cache()
        self.lease.release()

    def _leased(self) -> Lease | None:
        worker = self._config.workerinput["workerid"]  # type: ignore[attr-defined]
        line = ProgressLine(self._config, worker)
        number = self._asked.partition(":")[2]
        return lease_gpu(
            int(number) if number else None, lambda text: line.say(f"[{worker}] {text}"), self.warnings.append
        )


def refuse_missing(device: str) -> None:
    """Raise pytest.UsageError for ``cuda:N`` beyond the NVIDIA GPUs that are visible."""
    number = device.partition(":")[2]
    count = len(nvidia.visible()) if number else 0
    if count and int(number) >= count:
        seen = "only cuda:0 is" if count == 1 else f"only cuda:0 to cuda:{count - 1} are"
        raise pytest.UsageError(f"--finetune-device={device}: {seen} visible here (see CUDA_VISIBLE_DEVICES)")


def reason_to_skip(chosen: ChosenDevice, min_gib: float, store: Path) -> str | None:
    """Return why a test marked `gpu` cannot run here; None when it can. In an xdist worker it runs on a leased GPU."""
    if accelerator() == "cpu":
        return "needs an accelerator, and there is none here (or this torch build cannot use it)"
    device = chosen.name if chosen.name != "cpu" else accelerator()
    budget = detect(device, store)
    if budget.total_bytes >= min_gib * GiB:
        return None
    return f"needs an accelerator of {min_gib} GiB; {budget.name} has {budget.total_bytes / GiB:.1f} GiB"
