"""Whether each rule holds what its author demanded, with the sentence for every threshold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from pytest_finetune import wording
from pytest_finetune.judging.comparison import BASE, TUNED, Contest
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Table
from pytest_finetune.judging.slices import protected_slices
from pytest_finetune.judging.statistics.dirichlet import atoms, mean_cdf
from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.sample import needed_passes


class Check(NamedTuple):
    """One threshold: whether it holds, and the sentence that says so with numbers."""

    holds: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """How one rule came out; `outcome` is passed, failed, error, undecided or not run.

    The first `failures` reasons are the thresholds that fail.
    """

    name: str
    outcome: str
    reasons: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    failures: int = 0

    @property
    def passed(self) -> bool:
        """Whether every threshold holds."""
        return self.outcome == "passed"

    def noting(self, sentence: str) -> RuleVerdict:
        """Return the verdict with a note behind its reasons."""
        return replace(self, reasons=(*self.reasons, sentence))

    def explain(self) -> list[str]:
        """Return the outcome, then one line for each threshold."""
        return [f"rule {self.name}: {self.outcome}", *(f"  {reason}" for reason in self.reasons)]

    def as_json(self) -> dict[str, object]:
        """Return the record's form."""
        return {"outcome": self.outcome, "reasons": list(self.reasons), "skipped": list(self.skipped)}


def judge_rule(table: Table, base: Contest) -> RuleVerdict:
    """Hold a rule against every threshold its author gave; `base` is its contest with the base model."""
    checks = tuple(_checks(table, base, base.levels))
    failed = tuple(check.sentence for check in checks if not check.holds)
    held = tuple(check.sentence for check in checks if check.holds)
    outcome = "failed" if failed else "passed"
    return RuleVerdict(table.rule.name, outcome, failed + held, table.skipped, len(failed))


def _checks(table: Table, base: Contest, levels: Levels) -> Iterator[Check]:
    rule = table.rule
    if rule.corpus:
        yield _whole(table)
        return
    if rule.min_rate is not None:
        yield _rate(table, rule.min_rate)
    if rule.min_rate_bound is not None:
        yield _rate_bound(table, rule.min_rate_bound, levels)
    if rule.primary or rule.min_gain is not None:
        yield Check(base.beats, base.comparison.sentence)
    if rule.max_loss is not None:
        yield _loss(base, rule.max_loss, levels)
    if rule.guard:
        yield _guard(rule, base, levels)
    yield from (Check(not one.lost, one.sentence) for one in protected_slices(table, levels))


def _whole(table: Table) -> Check:
    """Hold a corpus rule's one value against what is asked; nothing is tested, it is a condition."""
    (value,), (base,) = table.arms[TUNED], table.arms[BASE]
    wanted = table.rule.min_rate
    if wanted is None:
        word = "holds" if value == 1 else "does not hold"
        with_base = "holds" if base == 1 else "does not"
        return Check(value == 1, f"{word} on all answers together (with the base model it {with_base})")
    word = "at least" if value >= wanted else "below"
    return Check(
        value >= wanted,
        f"min_rate: {value:.3f} over all answers together, {word} {wanted:g} ({base:.3f} with the base model)",
    )


def _rate(table: Table, wanted: float) -> Check:
    rate = table.rate("tuned")
    holds = rate.reaches(wanted)
    if not rate.binary:
        word = "at least" if holds else "below"
        return Check(holds, f"min_rate: the mean score is {rate.mean:.3f}, {word} {wanted:g}")
    needed = needed_passes(wanted, rate.n)
    verb = "keep their outcome when perturbed" if table.rule.invariant_to else "pass"
    return Check(
        holds,
        f"min_rate: {int(rate.total):,} of {wording.counted(rate.n, 'row')} {verb} ({wording.percent(rate.mean)}); "
        f"{wanted:g} needs {needed:,}",
    )


def _rate_bound(table: Table, wanted: float, levels: Levels) -> Check:
    rate = table.rate("tuned")
    holds = rate.doubt(wanted, 0.0) <= levels.claim
    lower = wording.percent(rate.lower(levels.claim, 0.0))
    verdict = "is demonstrated" if holds else "is not demonstrated"
    return Check(
        holds,
        f"min_rate_bound: a rate of {wording.percent(wanted)} {verdict} (lower bound {lower} at alpha "
        f"{levels.claim:.2g}, observed {wording.percent(rate.mean)} of {wording.counted(rate.n, 'row')})",
    )


def _loss(base: Contest, allowed: float, levels: Levels) -> Check:
    holds = base.gain.holds(allowed, levels.claim)
    lower = base.gain.claim.lower(levels.claim)
    verdict = "is excluded" if holds else "is not excluded"
    sentence = (
        f"max_loss: a loss of {wording.margin(allowed)} {verdict} (lower bound {wording.points(lower)} on "
        f"{wording.counted(base.gain.n, 'row')})"
    )
    fewest = None if holds else rows_to_exclude(allowed, levels)
    if fewest is not None and fewest > base.gain.claim.effective:
        sentence += f"; that takes at least {wording.counted(fewest, 'row')}, even if nothing breaks"
    return Check(holds, sentence)


def _guard(rule: Rule, base: Contest, levels: Levels) -> Check:
    """Refuse a demonstrated loss, and say how large a loss might still have gone unseen."""
    comparison = base.comparison
    fixed, broken = len(comparison.fixed), len(comparison.broken)
    counts = f"{fixed} fixed, {broken} broken, {wording.p_words(base.p_worse)} for a loss"
    if base.worse:
        return Check(False, f"guard: demonstrably worse than the base model ({counts})")
    unseen = max(0.0, -base.gain.claim.lower(levels.brake))
    return Check(
        True,
        f"guard: not demonstrably worse than the base model ({counts}); "
        f"a loss of up to {100 * unseen:.1f} points is not excluded",
    )


def rows_to_exclude(margin: float, levels: Levels) -> int | None:
    """Return the fewest rows on which identical answers exclude a loss of `margin`; None for zero."""
    if margin <= 0:
        return None
    low, high = 0, 1
    while not _excluded_by_ties(high, margin, levels.claim):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _excluded_by_ties(middle, margin, levels.claim) else (middle, high)
    return high


def _excluded_by_ties(rows: int, margin: float, alpha: float) -> bool:
    return mean_cdf(atoms([(-1.0, 1.0), (0.0, rows)]), -margin) < alpha
