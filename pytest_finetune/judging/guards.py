"""Everything on which the tuned arm may not lose: guard rules, and protected slices of any rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pytest_finetune.judging.comparison import BASE, Contest, Contests
from pytest_finetune.judging.slices import protected_slices
from pytest_finetune.judging.statistics.levels import holm


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
