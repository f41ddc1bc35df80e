"""A recipe is what was trained with several seeds: how far its adapters lie apart, and what the next one will gain.

Nothing is decided here: an adapter is kept by its own verdict. A recipe's word says whether another training of the
same kind may be expected to do as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_finetune import wording
from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.comparison import BASE
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores, missing, tabulate
from pytest_finetune.judging.statistics.prediction import FEWEST_SEEDS, SeedGains, seed_gains

HOLDS: Final = "holds"
UNSTABLE: Final = "unstable"
NOT_SHOWN: Final = "not shown"
NOT_KNOWN: Final = "not known"


@dataclass(frozen=True, slots=True)
class RuleSpread:
    """One rule: the base's rate and each seed's; `gains` is None for a rule that pairs no rows."""

    rule: str
    base: float
    rates: tuple[float, ...]
    gains: SeedGains | None

    @property
    def spread(self) -> float:
        """How far the best seed lies from the worst."""
        return max(self.rates) - min(self.rates)

    def as_json(self) -> dict[str, object]:
        """Return the record's form."""
        found = self.gains
        return {
            "base": self.base,
            "rates": list(self.rates),
            "spread": self.spread,
            "gain": None if found is None else found.mean,
            "interval": None if found is None else list(found.interval),
        }


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the seeds show together: a word, its sentence, and each rule's spread, the primary rule first."""

    word: str
    sentence: str
    spreads: tuple[RuleSpread, ...] = ()

    @property
    def unstable(self) -> bool:
        """Whether the seeds lie further apart than the recipe gains."""
        return self.word == UNSTABLE

    def as_json(self) -> dict[str, object]:
        """Return the record's form."""
        rules = {spread.rule: spread.as_json() for spread in self.spreads}
        return {"word": self.word, "sentence": self.sentence, "rules": rules}


def recipe_of(
    rules: Sequence[Rule], scores: Mapping[str, Scores], seeds: Sequence[str], defaults: DecisionDefaults
) -> Recipe:
    """Sum the seeds up; `scores` have the base and the arms of the seeds only, `seeds` are the names of these arms."""
    ordered = sorted(rules, key=lambda rule: (not rule.primary, rule.name))
    known = [rule for rule in ordered if set(seeds) <= scores[rule.name].arms.keys()]
    lacking = [text for rule in known for text in missing(rule, scores[rule.name], (BASE, *seeds))]
    primary = next((rule for rule in known if rule.primary), None)
    if lacking or primary is None or len(seeds) < FEWEST_SEEDS:
        why = lacking[0] if lacking else "the primary rule was not judged with every seed"
        return Recipe(NOT_KNOWN, f"nothing is known of the recipe: {why}")
    spreads = tuple(_spread(rule, scores[rule.name], seeds, defaults) for rule in known)
    gains = spreads[0].gains
    if gains is None:
        return Recipe(NOT_KNOWN, f"nothing is known of the recipe: {primary.name} pairs no rows", spreads)
    asked = defaults.min_gain if primary.min_gain is None else primary.min_gain
    confidence = 1 - 2 * primary.levels(defaults, 1).brake
    word = _word(gains, asked)
    return Recipe(word, f"{primary.name}: {'; '.join(_told(word, gains, asked, confidence))}", spreads)


def _spread(rule: Rule, scores: Scores, seeds: Sequence[str], defaults: DecisionDefaults) -> RuleSpread:
    table = tabulate(rule, scores)
    base, each = table.arms[BASE], [table.arms[seed] for seed in seeds]
    gains = seed_gains(each, base, table.groups, rule.levels(defaults, 1).brake) if rule.paired else None
    return RuleSpread(
        rule.name, table.tally(BASE).mean, tuple(table.tally(seed).mean for seed in seeds), gains
    )


def _word(gains: SeedGains, asked: float) -> str:
    """Find the word: as an adapter's, a recipe's gain must be above zero beyond chance, and as large as was asked."""
    if gains.interval.low > 0 and gains.mean >= asked:
        return HOLDS
    # Where no seed brings what was asked there is nothing that another seed could lose.
    return UNSTABLE if gains.spread > gains.mean and max(gains.each) >= asked else NOT_SHOWN


def _told(word: str, gains: SeedGains, asked: float, confidence: float) -> Iterator[str]:
    low, high = (wording.signed(end) for end in gains.interval)
    worst, best = (wording.signed(end) for end in (min(gains.each), max(gains.each)))
    number = len(gains.each)
    yield (
        f"{number} seeds gain {worst} to {best} points over {wording.arm(BASE)}, {wording.signed(gains.mean)} "
        "on average"
    )
    yield f"the next one's gain lies within {low} to {high} ({confidence:.0%} prediction interval)"
    if word == UNSTABLE:
        yield f"they lie {wording.margin(round(gains.spread, 3))} apart, which is more than the recipe gains"
    elif word == NOT_SHOWN and gains.interval.low > 0:
        yield f"that is less than the {wording.margin(asked)} that were asked"
    elif word == NOT_SHOWN:
        yield "it may gain nothing"
