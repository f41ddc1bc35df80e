"""What a decision rests on and cannot see: each risk with its weight, the heaviest first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from pytest_finetune import wording
from pytest_finetune.judging.comparison import BASE, Contest, Contests
from pytest_finetune.judging.scores import BLIND, Scores
from pytest_finetune.judging.slices import protected_slices

Weight = Literal["high", "medium", "low"]
HIGH: Final = "high"
"""The verdict may be wrong, or what is served is not what was judged."""
MEDIUM: Final = "medium"
"""Something that was not shown might still be so."""
LOW: Final = "low"
"""Good to know: it weighs when more is built on this decision."""

_LARGE_UNSEEN_LOSS: Final = 0.1
_ENOUGH_GROUPS: Final = 20
_MANY_LEFT_OUT: Final = 0.1
_CONFIDENT: Final = 0.95


class Risk(NamedTuple):
    """One risk: how much it weighs, and what it says."""

    weight: Weight
    sentence: str


def by_weight(risks: Iterable[Risk]) -> tuple[Risk, ...]:
    """Return the heaviest first; those of one weight as they came."""
    return tuple(sorted(risks, key=lambda risk: (HIGH, MEDIUM, LOW).index(risk.weight)))


def risks(
    scores: Mapping[str, Scores], contests: Mapping[str, Contests], delta_nonzero: bool | None
) -> Iterator[Risk]:
    """Yield what the decision rests on and cannot see."""
    levels = next(iter(contests.values()))[BASE].levels
    if not levels.spend:
        unpaid = "looks are not paid for (decision.spend: false): each look makes a false keep more likely"
        yield Risk(HIGH, unpaid)
    if levels.look > 1:
        yield Risk(
            MEDIUM,
            f"look {levels.look} on these held-out rows (alpha {levels.claim:.2g}): training rows written "
            "from earlier failures on them are not paid for by any alpha",
        )
    if delta_nonzero is None:
        yield Risk(MEDIUM, "the adapter's weights were not checked for being a zero change")
    for name, many in contests.items():
        yield from _rule_risks(name, many[BASE], scores[name])


def _rule_risks(name: str, base: Contest, scores: Scores) -> Iterator[Risk]:
    sample = base.gain.claim
    if base.rule.changed_after_look:
        yield Risk(HIGH, f"rule {name} was changed after a look at these rows")
    if base.rule.primary and scores.blind:
        yield Risk(HIGH, f"rule {name!r} {BLIND}")
    if base.rule.primary and scores.reads:
        yield Risk(
            HIGH,
            f"rule {name!r} reads response.{scores.reads}, which no expected answer has: it was not tested, and may "
            "judge how an answer came and not what it says",
        )
    yield from _unjudged_rows(name, base)
    if base.levels.confidence < _CONFIDENT and (base.rule.primary or not base.rule.guard):
        by_chance = wording.percent(base.levels.claim)
        yield Risk(
            HIGH if base.rule.primary else MEDIUM,
            f"{name} is decided at a confidence of {base.levels.confidence:.0%}: without any gain it claims one in up "
            f"to {by_chance} of runs",
        )
    if scores.contradicted:
        times = wording.counted(len(scores.contradicted), "row")
        yield Risk(MEDIUM, f"the judge of {name} contradicts itself on {times}")
    elif any(base.table.noisy):
        noisy = wording.counted(sum(base.table.noisy), "row")
        yield Risk(MEDIUM, f"{name} differs between runs of the same base on {noisy}")
    if sample.clusters is not None and sample.units < _ENOUGH_GROUPS:
        yield Risk(MEDIUM, f"{name} rests on {sample.units} groups; {_ENOUGH_GROUPS} are recommended")
    if sample.clusters is not None and base.demonstrated and sample.lower(base.levels.claim) < 0:
        yield Risk(MEDIUM, f"{name} gained in most groups, but a few groups that lose much are not excluded")
    if sample.clusters is None and _share_groups(scores.groups):
        dependent = f"{name} counts rows of one group as independent: write cluster='group' in its eval_rule"
        yield Risk(HIGH, dependent)
    for part in protected_slices(base.table, base.levels):
        if not part.lost and part.unseen_loss >= _LARGE_UNSEEN_LOSS:
            yield Risk(LOW, f"{name}, {part.sentence}")
    unseen = -sample.lower(base.levels.brake)
    if base.rule.guard and unseen >= _LARGE_UNSEEN_LOSS:
        loss = f"{100 * unseen:.1f} points"
        rows = wording.counted(sample.n, "row")
        yield Risk(LOW, f"guard {name} cannot exclude a loss of up to {loss} on {rows}")


def _unjudged_rows(name: str, base: Contest) -> Iterator[Risk]:
    """Yield that a rule leaves out many rows: it says nothing of them, and its text has chosen them."""
    left_out, total = len(base.table.skipped), len(base.table.skipped) + len(base.table.rows)
    if left_out >= _MANY_LEFT_OUT * total:
        yield Risk(
            HIGH if base.rule.primary else MEDIUM,
            f"rule {name!r} leaves out {left_out} of {wording.counted(total, 'row')} (pytest.skip): it says nothing "
            "about those",
        )


def _share_groups(groups: Sequence[str | None]) -> bool:
    named = [group for group in groups if group is not None]
    return len(set(named)) < len(named)
