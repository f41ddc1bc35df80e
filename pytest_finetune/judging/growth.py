"""How the held-out rows of one adapter came to be so many, where rows may be added until a gain is settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_finetune.judging.statistics.growing import Growing

if TYPE_CHECKING:
    from pytest_finetune.experiment import DecisionDefaults
    from pytest_finetune.judging.rule import Rule
    from pytest_finetune.judging.scores import Scores, Table


@dataclass(frozen=True, slots=True)
class Growth:
    """The look at which an adapter was first judged on these rows, and how many rows each earlier look of it had.

    `k` is spent once, however often rows are added. `why` says what keeps earlier looks from counting as the same.
    """

    k: int = 1
    ends: tuple[int, ...] = ()
    why: str = ""

    def growing(self, rule: Rule, defaults: DecisionDefaults, scores: Scores, table: Table) -> Growing:
        """Return how the primary rule claims a gain on the rows of a table; rows that every arm skipped are none."""
        levels = rule.levels(defaults, self.k, grow=True)
        judged = [frozenset(scores.rows[:end]) for end in self.ends]
        return Growing(levels, tuple(sum(row in rows for row in table.rows) for rows in judged))

    def as_json(self) -> dict[str, object]:
        """Return the record's form."""
        return {"k": self.k, "ends": list(self.ends), "why": self.why}

    @classmethod
    def of_json(cls, facts: Mapping[str, Any] | None) -> Growth | None:
        """Return the growth of a record; None where the number of rows was fixed."""
        return cls(facts["k"], tuple(facts["ends"]), facts["why"]) if facts else None
