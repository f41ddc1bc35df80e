"""Which label was given for which: counted while a rule runs, for the record."""

from __future__ import annotations

from collections import Counter
from typing import Final

NO_LABEL: Final = ""
OTHER: Final = "(other labels)"
MOST_LABELS: Final = 30
_LABEL_CHARS: Final = 60


class Confusion:
    """The `confusion` of one arm; a model may say anything, so rare labels beyond the thirtieth share one column."""

    def __init__(self) -> None:
        self._pairs: Counter[tuple[str, str]] = Counter()

    def __call__(self, expected: str | None, given: str | None) -> None:
        """Count an answer; None is an answer without a label."""
        self._pairs[_short(expected), _short(given)] += 1

    def table(self) -> dict[str, dict[str, int]]:
        """Return ``{expected: {given: count}}`` in alphabetical order."""
        totals: Counter[str] = Counter()
        for (expected, given), count in self._pairs.items():
            totals[given] += count
            totals[expected] += 0
        wanted = {expected for expected, _ in self._pairs}
        known = wanted | {label for label, _ in totals.most_common(MOST_LABELS)}
        found: dict[str, dict[str, int]] = {}
        for (expected, given), count in sorted(self._pairs.items()):
            column = given if given in known else OTHER
            row = found.setdefault(expected, {})
            row[column] = row.get(column, 0) + count
        return found


def _short(label: str | None) -> str:
    return NO_LABEL if label is None else str(label)[:_LABEL_CHARS]
