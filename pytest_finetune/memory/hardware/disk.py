"""Disk is a budget too: checkpoints while training, what the store keeps, and the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.hardware.sizes import MiB
from pytest_finetune.wording import size
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_finetune.memory.plan.workload import Workload

# Bytes of optimizer state for each trained value: two float32 moments, two 8-bit ones with their scales, or none.
_STATE: Final[Mapping[str, float]] = {
    "sgd": 0.0,
    "lion_8bit": 1.02,
    "adamw_8bit": 2.04,
    "adamw_bnb_8bit": 2.04,
}
_ADAMW: Final = 8.0
# Trainer state, random states, scheduler and training arguments of one checkpoint.
_SMALL_FILES: Final = 1 * MiB
_TOKENIZER: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, slots=True)
class DiskBudget:
    """What is free on the disk where the store lies."""

    folder: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """What one training writes at most, in bytes; compares with a `DiskBudget`, a `Budget` or with bytes.

    While it trains there are `kept` checkpoints and the one that is being written; the store then keeps the
    adapter, and a bundle holds it once more with the tokenizer.
    """

    adapter_bytes: int
    checkpoint_bytes: int
    kept: int
    tokenizer_bytes: int

    @property
    def checkpoints_bytes(self) -> int:
        """Return the bytes of all checkpoints at the fullest moment."""
        return (self.kept + 1) * self.checkpoint_bytes

    @property
    def bundle_bytes(self) -> int:
        """Return the bytes of a promoted bundle."""
        return self.adapter_bytes + self.tokenizer_bytes + _SMALL_FILES

    @property
    def peak_bytes(self) -> int:
        """Return the bytes at the fullest moment: all checkpoints and the finished adapter, then the bundle."""
        return self.checkpoints_bytes + self.adapter_bytes + self.bundle_bytes

    def __le__(self, budget: DiskBudget | Budget | int) -> bool:
        """Tell whether there is room; a budget without a known disk is a ValueError."""
        if not isinstance(budget, DiskBudget | Budget | int):
            return NotImplemented
        return self.peak_bytes <= _free(budget)

    def explain(self, budget: DiskBudget | Budget | int) -> list[str]:
        """Return the verdict with its parts and what to change."""
        free = _free(budget)
        fits = "fits on the disk" if self.peak_bytes <= free else "does not fit on the disk"
        where = f" ({budget.folder})" if isinstance(budget, DiskBudget) else ""
        lines = [
            f"training {fits}: writes {size(self.peak_bytes)}, {size(free)} are free{where}",
            f"  {self.kept + 1} checkpoints {size(self.checkpoints_bytes)} | adapter "
            f"{size(self.adapter_bytes)} | bundle {size(self.bundle_bytes)}        (predicted)",
        ]
        if self.peak_bytes > free:
            if self.kept > 1:
                saved = (self.kept - 1) * self.checkpoint_bytes
                lines.append(f"  training.save_total_limit 1 -> {size(self.peak_bytes - saved)}")
            lines.append("  to keep the store on another disk: --finetune-store=DIR")
        return lines

    def as_json(self) -> JsonTree:
        """Return the plan as the record keeps it."""
        return {
            "predicted_bytes": self.peak_bytes,
            "checkpoints_bytes": self.checkpoints_bytes,
            "adapter_bytes": self.adapter_bytes,
            "bundle_bytes": self.bundle_bytes,
        }


def plan_disk(workload: Workload, trainable: int, kept: int, base: Path | None) -> DiskPlan:
    """Plan the files of a training: `trainable` parameters, `kept` checkpoints, the tokenizer of the folder `base`."""
    width = 2 if workload.adapter is not None and workload.adapter.dtype != "float32" else 4
    adapter = trainable * width
    optimizer = workload.optimizer.removeprefix("paged_")
    tokenizer = sum(
        (base / name).stat().st_size for name in _TOKENIZER if base is not None and (base / name).is_file()
    )
    checkpoint = adapter + int(trainable * _STATE.get(optimizer, _ADAMW)) + tokenizer + _SMALL_FILES
    return DiskPlan(adapter, checkpoint, kept, tokenizer)


def _free(budget: DiskBudget | Budget | int) -> int:
    if isinstance(budget, DiskBudget):
        return budget.free_bytes
    if not isinstance(budget, Budget):
        return int(budget)
    if budget.disk_free_bytes is None:
        raise ValueError(f"not compared: {budget.name} is a card, and no disk is known; compare with bytes")
    return budget.disk_free_bytes
