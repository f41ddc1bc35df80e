"""One arm against another on the same rows: beats, worse, excluded, holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pytest_finetune.judging.statistics.clusters import FEWEST_CLUSTERS
from pytest_finetune.judging.statistics.sample import Interval, Sample, differences

FEWEST_UNITS: Final = 6
"""With fewer independent rows or clusters nothing is discarded."""


@dataclass(frozen=True, slots=True)
class PairedGain:
    """The paired differences of two arms; positive is better.

    `claim` is read for claims and `brake` for brakes. They differ on noisy rows only, whose score
    changes between runs of the same base: there a gain never counts for a claim, a loss never for a brake.
    """

    claim: Sample
    brake: Sample

    @classmethod
    def of(
        cls,
        ours: Sequence[float],
        theirs: Sequence[float],
        groups: Sequence[str | None] | None = None,
        noisy: Sequence[bool] | None = None,
    ) -> PairedGain:
        """Pair two arms' scores, row by row."""
        gaps = differences(ours, theirs)
        if noisy is None or not any(noisy):
            sample = Sample.of(gaps, groups)
            return cls(sample, sample)
        marked = tuple(zip(gaps, noisy, strict=True))
        return cls(
            claim=Sample.of([min(gap, 0.0) if noise else gap for gap, noise in marked], groups),
            brake=Sample.of([max(gap, 0.0) if noise else gap for gap, noise in marked], groups),
        )

    @property
    def n(self) -> int:
        """The number of rows, ties included."""
        return self.claim.n

    @property
    def units(self) -> int:
        """The number of rows, or of clusters where rows share groups."""
        return self.claim.units

    @property
    def gain(self) -> float:
        """The observed gain, as claims count it."""
        return self.claim.mean

    @property
    def p(self) -> float:
        """The p-value for a gain above zero; 1 where fewer than six clusters have a net change."""
        if self.claim.clusters is not None and self.claim.changed_clusters < FEWEST_CLUSTERS:
            return 1.0
        return self.claim.p_gain()

    @property
    def p_worse(self) -> float:
        """The p-value for a loss: the arms exchanged."""
        return self.brake.negated().p_gain()

    def beats(self, margin: float, alpha: float) -> bool:
        """Tell whether a gain above zero is demonstrated and the observed gain is at least `margin`."""
        return self.p <= alpha and self.claim.reaches(margin)

    def worse(self, alpha: float) -> bool:
        """Tell whether a loss is demonstrated."""
        return self.p_worse <= alpha

    def excludes(self, margin: float, alpha: float) -> bool:
        """Tell whether the upper bound lies below `margin`, so that such a gain is excluded."""
        return self.brake.negated().doubt(-margin) < alpha

    def holds(self, margin: float, alpha: float) -> bool:
        """Tell whether a loss of `margin` is excluded by the lower bound (non-inferiority)."""
        return self.claim.doubt(-margin) < alpha

    def interval(self, alpha: float) -> Interval:
        """Return both bounds, each at level `alpha`."""
        return Interval(self.claim.lower(alpha), self.brake.upper(alpha))
