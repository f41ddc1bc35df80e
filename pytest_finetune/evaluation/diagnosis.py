"""One next change, named from evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class NextChange:
    """The one thing to change before the next run: what, because of which numbers, and the rows to look at."""

    change: str
    because: str
    rows: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the record's form."""
        return {"change": self.change, "because": self.because, "rows": list(self.rows)}
