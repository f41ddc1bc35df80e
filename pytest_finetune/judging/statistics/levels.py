"""Alpha: what a claim may spend at this look, what a brake uses, and Holm's correction for discards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import ceil, log2


@dataclass(frozen=True, slots=True)
class Levels:
    """One-sided error levels of one rule at one look.

    Claims (a gain, a loss excluded, a rate demonstrated) spend: ``(1 - confidence) / (k (k + 1))`` at look k,
    which adds up to ``1 - confidence`` over all looks. Brakes (demonstrably worse, a gain excluded, a
    guard) never wear out. Where the rows `grow`, a claim of a gain spends once, however often rows are added.
    """

    confidence: float = 0.95
    look: int = 1
    spend: bool = True
    grow: bool = False

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1:
            raise ValueError(
                f"confidence={self.confidence!r}: write a number between 0.5 and 1, such as 0.95"
            )
        if self.look < 1:
            raise ValueError(f"look={self.look!r}: looks are counted from 1")

    @property
    def brake(self) -> float:
        """The level of brakes, and of each side of the intervals that are shown."""
        return float((1 - Decimal(str(self.confidence))) / 2)

    @property
    def claim(self) -> float:
        """The level of claims at this look."""
        if not self.spend:
            return self.brake
        return float((1 - Decimal(str(self.confidence))) / (self.look * (self.look + 1)))

    @property
    def fewest_rows(self) -> int:
        """Below this number of rows no claim is possible, even if every row is fixed."""
        fixed = ceil(log2(1 / self.claim))
        while (
            self.grow and 2 ** (fixed + 1) - 1 < (fixed + 1) / self.claim
        ):  # the e-value of so many, none broken
            fixed += 1
        return fixed


def holm(p_values: Sequence[float], levels: Sequence[float]) -> tuple[bool, ...]:
    """Tell which hypotheses are rejected while the chance of any false rejection stays at the level.

    Step down from the smallest p-value; hypotheses may have levels of their own.
    Holm (1979), Scandinavian Journal of Statistics 6, 65-70.

    >>> holm([0.01, 0.02, 0.9], [0.025, 0.025, 0.025])
    (False, False, False)
    >>> holm([0.005, 0.02, 0.9], [0.025, 0.025, 0.025])
    (True, False, False)
    """
    rejected = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i] / levels[i])
    for step, i in enumerate(order):
        if p_values[i] * (len(order) - step) > levels[i]:
            break
        rejected[i] = True
    return tuple(rejected)
