"""The plan line: what a held-out file of this size can show, and whether the gate can open at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.power import (
    MOST_ROWS,
    chance_to_beat,
    discordance_before,
    rows_to_settle,
    smallest_gain,
)


@dataclass(frozen=True)
class Plan:
    """What `rows` held-out rows can show about a gain of `min_gain`.

    `observed` is the share of rows on which the arms differ, when that is known; else it follows from
    `base_rate`, and without that half of the rows are taken to differ.
    """

    rows: int
    min_gain: float
    levels: Levels = field(default_factory=Levels)
    power: float = 0.8
    observed: float | None = None
    base_rate: float | None = None

    def discordance(self, gain: float) -> float:
        """Return the share of rows to expect on which the arms differ, at a true gain."""
        if self.observed is None:
            return discordance_before(gain, self.base_rate)
        return min(1.0, max(gain, self.observed))

    @property
    def possible(self) -> bool:
        """Whether any result could lead to keep."""
        return self.rows >= self.levels.fewest_rows

    @cached_property
    def smallest(self) -> float | None:
        """The smallest true gain that is demonstrated (above zero) with the asked power; None: not even 1."""
        return smallest_gain(self.rows, self.discordance, self.levels.claim, self.power)

    @property
    def opens(self) -> bool:
        """Whether a true gain of `min_gain` would be demonstrated with the asked power."""
        return self.smallest is not None and self.smallest <= self.min_gain

    @property
    def line(self) -> str:
        """One sentence for the record and the terminal."""
        look = f"look {self.levels.look}, alpha {self.levels.claim:.2g}"
        if not self.possible:
            return (
                f"keep impossible: {_rows(self.rows)} cannot demonstrate any gain ({look}); "
                f"at least {self.levels.fewest_rows} are needed, even if every one is fixed"
            )
        if self.smallest is None:
            return (
                f"{_rows(self.rows)} show no gain in {self.power:.0%} of runs ({look}), however large it is: "
                "write more held-out rows"
            )
        return (
            f"{_rows(self.rows)} show a gain of {100 * self.smallest:.1f} points or more "
            f"in {self.power:.0%} of runs ({look}, {self.discordance(self.smallest):.0%} of rows differing)"
        )

    @property
    def warning(self) -> str | None:
        """Say that a gain of `min_gain` would probably not be shown, and what would help; else None."""
        if self.opens:
            return None
        if not self.possible:
            return self.line
        discordance = self.discordance(self.min_gain)
        chance = chance_to_beat(self.rows, self.min_gain, discordance, 0.0, self.levels.claim)
        enough = rows_to_settle(self.min_gain, discordance, 0.0, self.levels.claim, self.power)
        rows = f"more than {MOST_ROWS:,} rows" if enough is None else f"about {enough:,} rows"
        return (
            f"{self.line}; min_gain is {100 * self.min_gain:.1f} points, and a true gain of that size "
            f"would be demonstrated in {chance:.0%} of runs: write held-out rows "
            f"({rows} for {self.power:.0%}) or ask for a larger gain"
        )


def _rows(n: int) -> str:
    return "1 held-out row" if n == 1 else f"{n:,} held-out rows"
