"""``arm["rule"]``: an arm's score under one rule, which can be asserted about and explains itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_finetune import wording
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores, Table, missing, tabulate
from pytest_finetune.judging.statistics.levels import Levels
from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.judging.statistics.sample import Interval, Sample

if TYPE_CHECKING:
    from pytest_finetune.experiment import DecisionDefaults

_REPR_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to ``beats`` or ``holds_against``: true or false, and why."""

    holds: bool
    sentence: str
    lines: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.holds

    def __repr__(self) -> str:
        return f"<{wording.one_line(self.sentence, _REPR_LENGTH - 2)}>"

    def explain(self) -> list[str]:
        """Return the sentence, then the numbers behind it."""
        return [self.sentence, *(f"  {line}" for line in self.lines)]


@dataclass(frozen=True, slots=True, repr=False)
class Score:
    """One arm under one rule, on the rows that count.

    `beats` and `holds_against` judge at the look's alpha, paired by row.
    """

    rule: str
    arm: str
    levels: Levels
    rows: tuple[str, ...]
    values: tuple[float, ...] = field(repr=False)
    groups: tuple[str | None, ...] | None = None
    noisy: tuple[bool, ...] | None = None

    @property
    def total(self) -> int:
        """The number of rows that count."""
        return len(self.rows)

    @property
    def passed(self) -> float:
        """The rows that passed; for a graded rule the sum of its scores."""
        total = self._sample.total
        return int(total) if total == int(total) else float(total)

    @property
    def rate(self) -> float:
        """The share of rows that passed, or the mean score."""
        return self._sample.mean

    @property
    def interval(self) -> Interval:
        """The interval of the true rate (Clopper-Pearson for passes and failures)."""
        sample = self._sample
        return Interval(sample.lower(self.levels.brake, 0.0), sample.upper(self.levels.brake, 1.0))

    def facts(self) -> dict[str, object]:
        """Return the record's form: counts, rate and interval."""
        counted: dict[str, object] = {"passed": self.passed, "total": self.total, "rate": self.rate}
        return {**counted, "interval": list(self.interval)}

    def apart(self, readable: Sequence[bool]) -> dict[str, object]:
        """Return, in the record's form, how many answers can be read (one flag a row), and the rate among those."""
        read = replace(self, values=tuple(map(float, readable)), noisy=None)
        kept = [place for place, fits in enumerate(readable) if fits]
        among = replace(
            self,
            rows=tuple(self.rows[place] for place in kept),
            values=tuple(self.values[place] for place in kept),
            groups=self.groups and tuple(self.groups[place] for place in kept),
            noisy=None,
        )
        counts: dict[str, object] = {
            "readable": len(kept),
            "total": self.total,
            "interval": list(read.interval),
        }
        return {**counts, "primary": among.facts() if kept else None}

    def beats(self, other: Score, by: float = 0.0) -> Claim:
        """Tell whether a gain above zero over `other` is demonstrated and at least `by` is observed."""
        gain = self._paired(other)
        if gain is None:
            return self._incomparable(other)
        alpha = self.levels.claim
        shown, enough = gain.p <= alpha, gain.claim.reaches(by)
        verb = "beats" if shown and enough else "does not beat"
        why = self._p_and_gain(gain)
        if not shown:
            why += f", not demonstrated at alpha {alpha:.2g}"
        elif not enough:
            why += f", demonstrated above zero but below {wording.margin(by)}"
        sentence = f"{self.arm} {verb} {other.arm} on {self.rule}: {why}"
        return Claim(shown and enough, sentence, self._details(gain, other))

    def holds_against(self, other: Score, margin: float) -> Claim:
        """Tell whether a loss of `margin` or more against `other` is excluded (non-inferiority)."""
        gain = self._paired(other)
        if gain is None:
            return self._incomparable(other)
        holds = gain.holds(margin, self.levels.claim)
        verb, verdict = ("holds", "is excluded") if holds else ("does not hold", "is not excluded")
        lower = wording.points(gain.claim.lower(self.levels.claim))
        sentence = (
            f"{self.arm} {verb} against {other.arm} on {self.rule}: a loss of {wording.margin(margin)} "
            f"{verdict} (lower bound {lower}, n = {gain.n})"
        )
        return Claim(holds, sentence, self._details(gain, other))

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"<{self.arm} {self.rule}: {self.passed:g} of {self.total}, {wording.percent(self.rate)} "
            f"({wording.percent(low)} to {wording.percent(high)})>"
        )

    @property
    def _sample(self) -> Sample:
        return Sample.of(self.values, self.groups)

    def _paired(self, other: Score) -> PairedGain | None:
        if self.rule != other.rule:
            raise ValueError(f"arms are compared under one rule, not under {self.rule!r} and {other.rule!r}")
        if set(self.rows) != set(other.rows):
            return None
        at = dict(zip(other.rows, other.values, strict=True))
        return PairedGain.of(self.values, [at[row] for row in self.rows], self.groups, self.noisy)

    def _incomparable(self, other: Score) -> Claim:
        apart = sorted(set(self.rows) ^ set(other.rows))
        return Claim(
            False,
            f"{self.arm} and {other.arm} cannot be compared on {self.rule}: "
            f"{wording.counted(len(apart), 'row')} apart ({wording.listed(apart)})",
        )

    def _p_and_gain(self, gain: PairedGain) -> str:
        return f"{wording.points(gain.gain)} on {wording.counted(gain.n, 'row')}, {wording.p_words(gain.p)}"

    def _details(self, gain: PairedGain, other: Score) -> tuple[str, ...]:
        low, high = gain.interval(self.levels.brake)
        shown = 1 - 2 * self.levels.brake
        return (
            f"{self.arm}: {self.passed:g} of {self.total} ({wording.percent(self.rate)}), "
            f"{other.arm}: {other.passed:g} of {other.total} ({wording.percent(other.rate)})",
            f"{shown:.0%} interval of the gain: {wording.signed(low)} to {wording.signed(high)} points",
            f"look {self.levels.look}, alpha {self.levels.claim:.2g} (one-sided)",
        )


def score_of(spec: Rule, scores: Scores, arm: str, defaults: DecisionDefaults, look: int = 1) -> Score:
    """Return an arm's score under a rule; ValueError says what is missing when there is none."""
    for problem in missing(spec, scores, [arm]):
        raise ValueError(problem)
    return read(tabulate(spec, scores), arm, spec.levels(defaults, look))


def read(table: Table, arm: str, levels: Levels) -> Score:
    """Return an arm's score in a table of the rows that count."""
    return Score(table.rule.name, arm, levels, table.rows, table.arms[arm], table.groups, table.noisy)
