"""Rows that were added for one adapter: which looks belong together, and what breaks them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pytest_finetune.wording import counted


class JudgedRow(NamedTuple):
    """A row and what every arm answered to it, as digests."""

    row: str
    answers: str


@dataclass(frozen=True, slots=True)
class Grown:
    """The rows of a look in the order in which they were added, and the first of the looks that it belongs to.

    `subject` stands for what may not change: the adapter, the rules, how all arms are asked. `k` is spent once for all
    looks of a chain; `added` tells whether this one only added rows to an earlier one, `why` why it did not.
    """

    subject: str
    rows: tuple[JudgedRow, ...]
    chain: str
    k: int
    added: bool
    why: str = ""

    def begins(self, rows: Sequence[JudgedRow]) -> bool:
        """Tell whether rows only follow these, with nothing changed in them."""
        return len(self.rows) < len(rows) and self.rows == tuple(rows[: len(self.rows)])

    def begins_texts(self, rows: Sequence[str]) -> bool:
        """Tell the same of rows that nobody has answered yet."""
        return len(self.rows) <= len(rows) and all(a.row == b for a, b in zip(self.rows, rows, strict=False))

    def broken_by(self, rows: Sequence[JudgedRow]) -> str:
        """Say what keeps rows from only following these."""
        if not self.begins_texts([one.row for one in rows]):
            place = next(
                (i for i, (a, b) in enumerate(zip(self.rows, rows, strict=False)) if a.row != b.row),
                len(rows),
            )
            return (
                f"rows may only be appended, and of the {len(self.rows):,} rows judged before, row {place + 1:,} is "
                "another one now or gone"
            )
        changed = sum(a.answers != b.answers for a, b in zip(self.rows, rows, strict=False))
        if changed:
            return f"{counted(changed, 'row')} judged before got other answers now"
        return "a judge was asked anew"

    def as_json(self) -> dict[str, Any]:
        """Return the form in which the book holds it."""
        return {name: getattr(self, name) for name in ("subject", "chain", "k", "added", "why")} | {
            "rows": [list(row) for row in self.rows]
        }

    @classmethod
    def of_json(cls, facts: dict[str, Any] | None) -> Grown | None:
        """Return what the book holds; None where the number of rows was fixed."""
        if facts is None:
            return None
        return cls(**{**facts, "rows": tuple(JudgedRow(*row) for row in facts["rows"])})
