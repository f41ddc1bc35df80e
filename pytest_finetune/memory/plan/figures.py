"""The numbers of one traced workload: what the allocator held at most, of which parts, and when."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_finetune.errors import FinetuneError
from pytest_finetune.yamlfile import Json, JsonTree


class PlanError(FinetuneError, ValueError):
    """The workload cannot be planned; the message says what was found and what is known."""


class NotPlannedError(PlanError):
    """The step could not be traced here: nobody's mistake, and no answer to whether it fits."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the caching allocator does with the step; all in bytes.

    `allocated` is the peak of blocks in use, `reserved` the peak of what it took from the card without
    pressure, and `smallest` the smallest capacity in which the step still runs, its cache given back when
    the card is full.
    """

    allocated: int
    reserved: int
    smallest: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One traced workload.

    `held` maps the size of a cuBLAS workspace to what the allocator holds with it: that size is the card's,
    everything else is the step's. `parts` breaks the peak of live bytes down; `phase` and `layer` say when
    it is reached.
    """

    held: Mapping[int, Held]
    parts: Mapping[str, int]
    phase: str
    layer: int | None
    phases: Mapping[str, int]
    parameters: int
    trainable: int
    resident: int
    traced_layers: int
    layers: int

    def with_workspace(self, size: int) -> Held:
        """Return what is held with a cuBLAS workspace of this size, or of the next larger one that was replayed."""
        fitting = [known for known in self.held if known >= size]
        return self.held[min(fitting) if fitting else max(self.held)]

    def as_json(self) -> JsonTree:
        """Return the JSON tree that `from_json` reads back."""
        tree = dataclasses.asdict(self)
        return {**tree, "held": {str(size): held for size, held in tree["held"].items()}}

    @classmethod
    def from_json(cls, tree: Json) -> Figures:
        """Read what `as_json` wrote."""
        held = {int(size): Held(**held) for size, held in tree["held"].items()}
        return cls(**{**tree, "held": held})
