"""The tuned arm against one opponent under one rule: the numbers, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

from pytest_finetune import wording
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Table
from pytest_finetune.judging.statistics.growing import Evidence, Growing
from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.paired import FEWEST_UNITS, PairedGain
from pytest_finetune.judging.statistics.sample import differences

BASE: Final = "baseline"
TUNED: Final = "tuned"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the record says about one rule and one opponent.

    `gain` is a share of rows (0.1 is ten points). `fixed` and `broken` are row ids; a noisy row is never
    fixed. `evidence` is what a gain is claimed by where rows may be added, in place of `p_value`.
    """

    rule: str
    against: str
    gain: float
    interval: tuple[float, float]
    p_value: float
    fixed: tuple[str, ...]
    broken: tuple[str, ...]
    same: int
    verdict: str
    sentence: str
    noisy: tuple[str, ...] = ()
    sign_flip_p: float | None = None
    evidence: Evidence | None = None

    def as_json(self) -> dict[str, object]:
        """Return the record's form; the last three appear only where there is something to say."""
        tree: dict[str, object] = {
            "rule": self.rule,
            "against": self.against,
            "gain": self.gain,
            "interval": list(self.interval),
            "p_value": self.p_value,
            "fixed": list(self.fixed),
            "broken": list(self.broken),
            "same": self.same,
            "verdict": self.verdict,
            "sentence": self.sentence,
        }
        if self.noisy:
            tree["noisy"] = list(self.noisy)
        if self.sign_flip_p is not None:
            tree["sign_flip_p"] = self.sign_flip_p
        if self.evidence is not None:
            tree["evidence"] = self.evidence.as_json()
        return tree


class Contest:
    """One rule, one opponent, and the answers to what the decision asks about them, each computed once."""

    def __init__(
        self,
        table: Table,
        against: str,
        margin: float,
        levels: Levels,
        ours: str = TUNED,
        growing: Growing | None = None,
    ) -> None:
        self.table = table
        self.against = against
        self.margin = margin
        self.levels = levels
        self.ours = ours
        self.growing = growing
        self.gain: PairedGain = table.against(against, ours)

    @property
    def rule(self) -> Rule:
        """The rule under which the arms meet."""
        return self.table.rule

    @cached_property
    def p(self) -> float:
        """The p-value for a gain above zero."""
        return self.gain.p

    @cached_property
    def p_worse(self) -> float:
        """The p-value for a loss."""
        return self.gain.p_worse

    @cached_property
    def demonstrated(self) -> bool:
        """Whether a gain above zero is demonstrated at this look, or was at one before rows were added."""
        return self.p <= self.levels.claim if self.evidence is None else self.evidence.shown

    @cached_property
    def evidence(self) -> Evidence | None:
        """What speaks for a gain where rows may be added; None where their number was fixed beforehand."""
        if self.growing is None:
            return None
        gaps = differences(self.table.arms[self.ours], self.table.arms[self.against])
        noisy = zip(gaps, self.table.noisy, strict=True)
        doubted = tuple(min(gap, 0.0) if noise else gap for gap, noise in noisy)
        return Evidence.of(doubted, self.table.groups, self.growing)

    @property
    def gains_at(self) -> Levels:
        """The levels at which a gain is claimed."""
        return self.levels if self.growing is None else self.growing.levels

    @cached_property
    def enough(self) -> bool:
        """Whether the observed gain is at least the margin."""
        return self.gain.claim.reaches(self.margin)

    @cached_property
    def beats(self) -> bool:
        """Whether both hold."""
        return self.demonstrated and self.enough

    @cached_property
    def worse(self) -> bool:
        """Whether a loss is demonstrated; this never wears out."""
        return self.p_worse <= self.levels.brake

    @cached_property
    def excluded(self) -> bool:
        """Whether a gain of the margin is excluded; this never wears out."""
        return self.gain.excludes(self.margin, self.levels.brake)

    @property
    def many(self) -> bool:
        """Whether there are enough rows or clusters to discard anything."""
        return self.gain.units >= FEWEST_UNITS

    @cached_property
    def comparison(self) -> Comparison:
        """The record's view of this contest."""
        low, high = self.gain.interval(self.levels.brake)
        rows = tuple(zip(self.table.rows, self.gaps, self.table.noisy, strict=True))
        broken = tuple(row for row, gap, _ in rows if gap < 0)
        fixed = tuple(row for row, gap, noise in rows if gap > 0 and not noise)
        numbers = self._numbers(len(fixed), len(broken), low, high)
        return Comparison(
            rule=self.rule.name,
            against=self.against,
            gain=self.gain.gain,
            interval=(low, high),
            p_value=self.p,
            fixed=fixed,
            broken=broken,
            same=len(rows) - len(fixed) - len(broken),
            verdict=self.verdict,
            sentence=f"{self.rule.name}: {self._meaning(high)}: {numbers}",
            noisy=tuple(row for row, _, noise in rows if noise),
            sign_flip_p=self.gain.claim.p_sign_flip(),
            evidence=self.evidence,
        )

    @property
    def gaps(self) -> tuple[float, ...]:
        """The difference on each row, our score minus theirs."""
        mine, theirs = self.table.arms[self.ours], self.table.arms[self.against]
        return tuple(a - b for a, b in zip(mine, theirs, strict=True))

    @property
    def verdict(self) -> str:
        """One of beats, worse, excluded, not demonstrated."""
        if self.beats:
            return "beats"
        if self.worse:
            return "worse"
        return "excluded" if self.excluded else "not demonstrated"

    def _numbers(self, fixed: int, broken: int, low: float, high: float) -> str:
        n = self.gain.n
        rates = tuple(self.table.tally(arm) for arm in (self.ours, self.against))
        if all(rate.binary for rate in rates):
            mine, theirs = (f"{int(rate.total):,}" for rate in rates)
            scored = f"{mine} of {n:,} rows pass, {theirs} with {wording.arm(self.against)}"
        else:
            mine, theirs = (f"{rate.mean:.3f}" for rate in rates)
            scored = (
                f"mean score {mine} on {wording.counted(n, 'row')}, {theirs} with {wording.arm(self.against)}"
            )
        shown = f"{1 - 2 * self.levels.brake:.0%} interval {wording.signed(low)} to {wording.signed(high)}"
        weight = wording.p_words(self.p) if self.evidence is None else self.evidence.words
        notes = [f"{fixed} fixed, {broken} broken", shown, weight]
        if self.gain.claim.clusters is not None:
            notes.append(f"{self.gain.units} groups worth {self.gain.claim.effective:.0f} rows")
        if any(self.table.noisy):
            notes.append(f"{wording.counted(sum(self.table.noisy), 'row')} noisy, never counted as fixed")
        return f"{scored}, {wording.points(self.gain.gain)} ({'; '.join(notes)})"

    def _meaning(self, high: float) -> str:
        asked, over = wording.margin(self.margin), wording.arm(self.against)
        alpha = f"at alpha {self.gains_at.claim:.2g}"
        if self.beats:
            shown = f"a gain over {over} is demonstrated {alpha}"
            return f"{shown} and at least {asked} are observed" if self.margin else shown
        if self.worse:
            return f"{wording.arm(self.ours)} is demonstrably worse than {over}"
        if self.excluded:
            return f"a gain of {asked} over {over} is excluded, it is at most {wording.signed(high)}"
        if self.demonstrated:
            return f"a gain over {over} is demonstrated {alpha}, but less than {asked} are observed"
        return f"a gain over {over} is not demonstrated {alpha}"


Contests: TypeAlias = Mapping[str, Contest]
"""One rule's contests, by opponent; the base is always among them."""
