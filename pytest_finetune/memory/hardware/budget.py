"""The memory that a training may use, and where that number comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Final

from pytest_finetune.memory.hardware.cards import UNKNOWN, Family
from pytest_finetune.wording import size
from pytest_finetune.yamlfile import JsonTree

HEADROOM: Final = 0.08


@dataclass(frozen=True, slots=True)
class Process:
    """Another process that holds memory of the card; `bytes` is 0 when the driver does not say."""

    pid: int
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Budget:
    """The memory that a training may use, and where that number comes from.

    `total_bytes` is the card (RAM for a CPU), `free_bytes` what is free of it now, `headroom` the share of
    the total that is kept back as policy. `source` is ``measured``, ``named card`` or ``size``.
    """

    name: str
    device: str
    total_bytes: int
    free_bytes: int
    headroom: float = HEADROOM
    driver: str | None = None
    runtime: str | None = None
    processes: tuple[Process, ...] = ()
    disk_free_bytes: int | None = None
    ram_bytes: int | None = None
    source: str = "measured"
    family: Family = UNKNOWN
    unified: bool = False

    @property
    def usable_bytes(self) -> int:
        """Return the bytes to plan with: what is free, less the headroom, which stays free whoever else is here."""
        return max(0, min(self.free_bytes, self.total_bytes) - int(self.total_bytes * self.headroom))

    @property
    def comparable(self) -> bool:
        """Tell whether an accelerator stands behind this budget: RAM is no answer to the question about a card."""
        return self.device != "cpu"

    @property
    def incomparable_because(self) -> str | None:
        """Return why a plan cannot be judged against this budget, or None when it can."""
        if self.comparable:
            return None
        return (
            "this machine has no accelerator: name the card with --finetune-budget=rtx-4090 or a size (8GiB)"
        )

    def with_headroom(self, headroom: float) -> Budget:
        """Return the same budget with another share kept back (0 <= headroom < 1)."""
        if not 0 <= headroom < 1:
            raise ValueError(f"the headroom {headroom!r} is a share of the card and lies between 0 and 1")
        return replace(self, headroom=headroom)

    def crowded(self) -> str | None:
        """Say who holds how much of the card, or None when nobody holds more than a tenth of it."""
        held = self.total_bytes - self.free_bytes
        if self.source != "measured" or self.device == "cpu" or held <= self.total_bytes // 10:
            return None
        holders = sorted(self.processes, key=lambda process: -process.bytes)
        named = ", ".join(f"{p.name} (pid {p.pid}) {size(p.bytes)}" for p in holders[:4] if p.bytes)
        return f"{size(held)} of {size(self.total_bytes)} are taken by others" + (
            f": {named}" if named else ""
        )

    def as_json(self) -> JsonTree:
        """Return the budget as the record keeps it."""
        tree = asdict(self)
        del tree["unified"]
        return {
            **tree,
            "usable_bytes": self.usable_bytes,
            "processes": list(tree["processes"]),
            "family": self.family.name,
        }
