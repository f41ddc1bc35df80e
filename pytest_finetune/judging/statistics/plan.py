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
from pytest_finetune.wording import counted, margin, rough


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
        return self._smallest(grow=self.levels.grow)

    def _smallest(self, *, grow: bool) -> float | None:
        return smallest_gain(self.rows, self.discordance, self.levels.claim, self.power, grow=grow)

    @property
    def opens(self) -> bool:
        """Whether a true gain of `min_gain` would be demonstrated with the asked power."""
        return self.smallest is not None and self.smallest <= self.min_gain

    @cached_property
    def enough(self) -> int | None:
        """The rows that would prove a true gain of `min_gain` with the asked power; None: more than MOST_ROWS."""
        return rows_to_settle(
            self.min_gain,
            self.discordance(self.min_gain),
            0.0,
            self.levels.claim,
            self.power,
            grow=self.levels.grow,
        )

    @property
    def proves(self) -> str:
        """Say which gains these rows can prove."""
        rows = counted(self.rows, "held-out row")
        if not self.possible:
            return (
                f"keep impossible: {rows} cannot prove any gain; at least {self.levels.fewest_rows} are needed, "
                "even if every one is fixed"
            )
        if self.smallest is None:
            return f"{rows} can prove no gain, however large it is: write more held-out rows"
        proven = f"{rows} can prove a gain of {rough(self.smallest, self.min_gain)} points or more"
        return f"{proven} ({self._price})" if self.levels.grow else proven

    @property
    def _price(self) -> str:
        """Say what it costs that rows may be added and looked at whenever somebody likes."""
        fixed = self._smallest(grow=False)
        assert fixed is not None  # what an e-value shows, the test at a fixed number shows as well
        return (
            f"rows may be added, which has its price: {rough(fixed, self.min_gain)} if their number is fixed"
        )

    @property
    def line(self) -> str:
        """One sentence for the record and the terminal: what the rows can prove, and how many `min_gain` needs."""
        if self.opens or self.smallest is None:
            return self.proves
        enough = f"more than {MOST_ROWS:,}" if self.enough is None else f"about {self.enough:,}"
        return f"{self.proves}; to prove {margin(self.min_gain)} you need {enough}"

    @property
    def warning(self) -> str | None:
        """Say that a gain of `min_gain` would probably not be proven, and what would help; else None."""
        if self.opens:
            return None
        if not self.possible:
            return self.line
        discordance = self.discordance(self.min_gain)
        chance = chance_to_beat(
            self.rows, self.min_gain, discordance, 0.0, self.levels.claim, grow=self.levels.grow
        )
        return (
            f"{self.line}. A true gain of {margin(self.min_gain)} would be proven in {chance:.0%} of runs, "
            f"{self.power:.0%} are planned for (look {self.levels.look}, alpha {self.levels.claim:.2g}, "
            f"{discordance:.0%} of rows differing): write more held-out rows or ask for a larger gain"
        )
