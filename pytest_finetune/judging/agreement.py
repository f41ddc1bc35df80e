"""How far a judge agrees with people, and what is left of a judged gain when its bias is taken off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_finetune import wording
from pytest_finetune.judging.statistics.sample import Interval, Sample, differences

if TYPE_CHECKING:
    from pytest_finetune.judging.comparison import Contest
    from pytest_finetune.judging.scores import Scores

FEWEST_LABELS: Final = 20
"""So many answers of each arm in the decision must have been labelled by people before a judge may decide."""
DEFAULT_LABELS: Final = "eval/judge_labels.jsonl"
_PASS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Agreement:
    """One arm's answers that people labelled: whether the judge agrees, and how much more it gives than they do."""

    agreed: Sample
    bias: Sample

    @classmethod
    def of(cls, scores: Scores, arm: str, *, clustered: bool = False) -> Agreement:
        """Set a judge's verdicts beside the labels of people; rows that it skipped or nobody labelled are left out."""
        people = scores.labels.get(arm, {})
        columns = zip(
            scores.rows,
            scores.arms.get(arm, ()),
            scores.groups if clustered and scores.groups else (None,) * len(scores.rows),
            strict=False,
        )
        both = [
            (score, float(people[row]), group)
            for row, score, group in columns
            if row in people and score is not None
        ]
        groups = [group for *_, group in both] if clustered else None
        agreed = [float((score >= _PASS) == (label >= _PASS)) for score, label, _ in both]
        bias = differences([score for score, *_ in both], [label for _, label, _ in both])
        return cls(Sample.of(agreed, groups), Sample.of(bias, groups))

    @property
    def n(self) -> int:
        """The number of labelled answers."""
        return self.agreed.n

    def interval(self, alpha: float) -> Interval:
        """Return the bounds of Clopper and Pearson on the agreement, each at level `alpha`."""
        return Interval(self.agreed.lower(alpha, 0.0), self.agreed.upper(alpha))

    def bias_interval(self, alpha: float) -> Interval:
        """Return the bounds on the bias, each at level `alpha`."""
        return Interval(self.bias.lower(alpha), self.bias.upper(alpha))

    def as_json(self, alpha: float) -> dict[str, object]:
        """Return the record's form, with bounds at the level of displayed intervals."""
        if not self.n:
            return {"labels": 0}
        return {
            "labels": self.n,
            "agreement": self.agreed.mean,
            "interval": list(self.interval(alpha)),
            "bias": self.bias.mean,
            "bias_interval": list(self.bias_interval(alpha)),
        }


@dataclass(frozen=True, slots=True)
class Checked:
    """What is left of a judged gain over an opponent when the judge's own bias towards an arm is taken off."""

    name: str
    arms: Mapping[str, Agreement]
    gain: float
    taken_off: float
    alpha: float

    @classmethod
    def of(cls, contest: Contest, scores: Scores) -> Checked:
        """Bound the true gain from below, at the level of claims.

        The true gain is the judged gain less the difference of the judge's biases in the two arms. A bias is known only
        where people labelled answers of that very arm: it hangs on how often the arm is right. Three bounds share
        the level: a half for the gain, a quarter for each bias. Should none of them fail, the difference of the
        bounds is a bound, and the chance that any fails is at most the sum.
        """
        clustered = contest.rule.cluster is not None
        pair = (contest.against, contest.ours)
        theirs, ours = (Agreement.of(scores, arm, clustered=clustered) for arm in pair)
        arms, alpha = dict(zip(pair, (theirs, ours), strict=True)), contest.levels.claim
        taken_off = ours.bias.upper(alpha / 4) - theirs.bias.lower(alpha / 4)
        return cls(contest.rule.name, arms, contest.gain.claim.lower(alpha / 2), taken_off, alpha)

    @property
    def holds(self) -> bool:
        """Whether a gain is demonstrated for people, and not only for the judge."""
        return self.gain > self.taken_off

    @property
    def sentence(self) -> str:
        """What people's labels say about the judge, with numbers."""
        told = ", ".join(self._told())
        word = "is left" if self.holds else "need not be left"
        return (
            f"{self.name} is a judge: {told}; of a judged gain of at least {wording.points(self.gain)} up to "
            f"{wording.points(self.taken_off)} may be its bias towards the tuned model, so that a gain {word} "
            f"(alpha {self.alpha:.2g})"
        )

    def _told(self) -> Iterator[str]:
        for arm, found in self.arms.items():
            low, high = found.bias_interval(self.alpha / 4)
            yield (
                f"it agrees with people on {wording.percent(found.agreed.mean)} of {found.n} answers of "
                f"{wording.arm(arm)} and gives them {wording.points(found.bias.mean)} too much "
                f"({wording.signed(low)} to {wording.signed(high)})"
            )


def unchecked(name: str, scores: Scores, labels: str | None, arms: Sequence[str]) -> Iterator[str]:
    """Yield why a judge may not decide: people have not said often enough whether it is right about each arm."""
    counts = {arm: Agreement.of(scores, arm).n for arm in arms}
    few = {arm: count for arm, count in counts.items() if count < FEWEST_LABELS}
    if not few:
        return
    had = "nobody has checked it"
    if any(counts.values()):
        told = [f"{count} answers of {wording.arm(arm)}" for arm, count in few.items()]
        had = f"it was checked on {' and '.join(told)} only"
    wanted = wording.listed([wording.arm(arm) for arm in few], len(few))
    yield (
        f"rule {name!r} is a judge: {had}; label at least {FEWEST_LABELS} answers of each ({wanted}) in "
        f"{labels or DEFAULT_LABELS}: judge_labels/ beside the record has a file to fill in"
    )
