"""A rule on parts of the held-out rows, and all on which the tuned arm may not lose: guards, protected slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_finetune import wording
from pytest_finetune.judging.comparison import BASE, TUNED, Contest, Contests
from pytest_finetune.judging.statistics.levels import holm
from pytest_finetune.judging.statistics.sample import Sample

if TYPE_CHECKING:
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
        rows = wording.counted(self.contest.gain.n, "row")
        if not self.seen:
            return (
                f"slice {self.name!r}: {rows} are too few to show any loss ({counts}); protect it with more"
            )
        counts += f", {wording.p_words(self.contest.p_worse)} for a loss"
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


class Guard(NamedTuple):
    """One thing that is guarded: its name, the contest with the base, and the sentence that tells it."""

    name: str
    contest: Contest
    sentence: str


def guards(contests: Mapping[str, Contests]) -> Iterator[Guard]:
    """Yield guard rules and protected slices that have rows enough to show a loss."""
    for name, many in contests.items():
        base = many[BASE]
        if base.rule.guard and base.many:
            yield Guard(name, base, base.comparison.sentence)
        for part in protected_slices(base.table, base.levels):
            if part.seen:
                yield Guard(f"{name} on {part.name!r}", part.contest, f"{name}, {part.sentence}")


def lost_guards(contests: Mapping[str, Contests]) -> list[Guard]:
    """Return what is demonstrably lost after Holm's correction over everything that is guarded: for discards only."""
    every = list(guards(contests))
    lost = holm([one.contest.p_worse for one in every], [one.contest.levels.brake for one in every])
    return [one for one, worse in zip(every, lost, strict=True) if worse]


def _count(sample: Sample) -> float:
    total = sample.total
    return int(total) if total == int(total) else float(total)
