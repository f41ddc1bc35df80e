"""A rule on parts of the held-out rows: its rate on each slice, and slices on which the tuned arm may not lose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune import wording
from pytest_finetune.judging.comparison import BASE, TUNED, Contest
from pytest_finetune.judging.statistics.sample import Sample

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row
    from pytest_finetune.judging.scores import Table
    from pytest_finetune.judging.statistics.levels import Levels

MOST_SLICES: Final = 50


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows of one slice: the tuned arm against the base on them alone."""

    name: str
    protected: bool
    contest: Contest

    @property
    def seen(self) -> bool:
        """Whether there are enough rows to demonstrate a loss at all."""
        return self.contest.many

    @property
    def lost(self) -> bool:
        """Whether the tuned arm is demonstrably worse on the slice."""
        return self.seen and self.contest.worse

    @property
    def unseen_loss(self) -> float:
        """The largest loss that these rows do not exclude, as a share of the slice."""
        return max(0.0, -self.contest.gain.claim.lower(self.contest.levels.brake))

    @property
    def sentence(self) -> str:
        """What the slice shows, with the loss that it cannot exclude."""
        comparison = self.contest.comparison
        counts = f"{len(comparison.fixed)} fixed, {len(comparison.broken)} broken"
        rows = wording.rows(self.contest.gain.n)
        if not self.seen:
            return (
                f"slice {self.name!r}: {rows} are too few to show any loss ({counts}); protect it with more"
            )
        counts += f", {wording.p(self.contest.p_worse)} for a loss"
        if self.lost:
            return f"slice {self.name!r}: demonstrably worse than the base model on its {rows} ({counts})"
        unseen = f"a loss of up to {100 * self.unseen_loss:.1f} points is not excluded"
        return f"slice {self.name!r}: not demonstrably worse than the base model on its {rows} ({counts}); {unseen}"

    def facts(self, arm: str) -> dict[str, Any]:
        """Return the record's form for one arm; gain and verdict, the tuned arm's over the base, for that arm."""
        table, brake = self.contest.table, self.contest.levels.brake
        observed, bounded = table.tally(arm), table.rate(arm)
        found: dict[str, Any] = {
            "total": observed.n,
            "passed": _count(observed),
            "rate": observed.mean,
            "interval": [bounded.lower(brake, 0.0), bounded.upper(brake, 1.0)],
            "protected": self.protected,
        }
        if arm == TUNED:
            low, high = self.contest.gain.interval(brake)
            verdict = "too few rows" if not self.seen else "worse" if self.lost else self._not_worse
            found |= {"gain": self.contest.gain.gain, "gain_interval": [low, high], "verdict": verdict}
        return found

    @property
    def _not_worse(self) -> str:
        return "beats" if self.contest.demonstrated else "not worse"


def members(rows: Sequence[Row], by: str) -> dict[str, list[str]]:
    """Return the row ids of each slice: by `tags`, by `group`, or by any further field of the rows."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name in dict.fromkeys(_names(row, by)):
            found.setdefault(name, []).append(row.id)
    return dict(sorted(found.items()))


def _names(row: Row, by: str) -> Iterator[str]:
    value = row.tags if by == "tags" else row.group if by == "group" else row.raw.get(by)
    for part in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(part, (str, int, float)) and str(part):
            yield str(part).lower() if isinstance(part, bool) else str(part)


def sliced(table: Table, levels: Levels) -> tuple[Slice, ...]:
    """Return a rule's slices: the protected ones first, then the largest; at most fifty that are not protected."""
    protected = table.rule.protected
    named = [(name, rows) for name, rows in table.slices.items() if name in protected and rows]
    others = [(name, rows) for name, rows in table.slices.items() if name not in protected and rows]
    others.sort(key=lambda pair: -len(pair[1]))
    return tuple(
        Slice(name, name in protected, Contest(table.part(rows), BASE, 0.0, levels))
        for name, rows in (*named, *others[:MOST_SLICES])
    )


def protected_slices(table: Table, levels: Levels) -> tuple[Slice, ...]:
    """Return the slices on which the tuned arm may not lose."""
    return tuple(one for one in sliced(table, levels) if one.protected) if table.rule.protected else ()


def _count(sample: Sample) -> float:
    total = sample.total
    return int(total) if total == int(total) else float(total)
