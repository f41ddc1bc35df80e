"""What a run says of its recipe, and on how many seeds that rests: the same words in every view."""

from __future__ import annotations

from typing import Final

from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.recipe_facts import RuleSpread
from pytest_finetune.wording import counted, margin, one_line, percent, signed

NAMES: Final = {
    "holds": "the recipe holds",
    "unstable": "the recipe is unstable",
    "not shown": "the recipe is not shown",
    "not known": "the recipe is not known",
}
ONE_SEED: Final = "one seed cannot tell a recipe's effect from a seed's"


def seed_count(experiment: RecordedExperiment) -> int:
    """Return how many trainings a run rests on."""
    return max(len(experiment.recipe.seeds), 1)


def named(word: str) -> str:
    """Name what was found of a recipe."""
    return NAMES.get(word, NAMES["not known"])


def main_spread(experiment: RecordedExperiment) -> RuleSpread:
    """Return the primary rule's rates with each seed; false where there are none."""
    return experiment.recipe.rules[experiment.primary.name]


def brief(experiment: RecordedExperiment) -> str:
    """Say in half a line what several seeds show; empty where there was one."""
    recipe, spread = experiment.recipe, main_spread(experiment)
    if not recipe or not recipe.word:
        return ""
    if spread.interval is None or spread.base is None or not spread.rates:
        return one_line(recipe.sentence)
    low, high = (signed(end - spread.base) for end in (min(spread.rates), max(spread.rates)))
    ahead, behind = map(signed, spread.interval)
    seeds = counted(len(spread.rates), "seed")
    return one_line(f"{recipe.word}: {seeds} {low} to {high} points, the next one {ahead} to {behind}")


def guards_spread(experiment: RecordedExperiment) -> str:
    """Say how far the seeds lie apart under the further rules, the widest first; empty where there are none."""
    rules = {
        name: one.spread or 0.0
        for name, one in experiment.recipe.rules.items()
        if name != experiment.primary.name
    }
    widest = sorted(rules, key=lambda name: (-rules[name], name))
    return ", ".join(f"{one_line(name)} {margin(round(rules[name], 3))}" for name in widest)


def sentences(experiment: RecordedExperiment) -> list[str]:
    """Say all that is known of a recipe: its word, the choice of the judged adapter, how far other rules move."""
    recipe = experiment.recipe
    if not recipe:
        return [f"rests on one training: {ONE_SEED} (training.seeds)"] if experiment.arms else []
    moved = guards_spread(experiment)
    told = [f"{named(recipe.word)}: {recipe.sentence}"] if recipe.word else []
    return [
        one_line(text) for text in (*told, recipe.says, f"apart by seed: {moved}" if moved else "") if text
    ]


def seeds_cell(count: int | None, word: str) -> str:
    """Word the seeds of a run in a table."""
    return f"{count or 1}, {word}" if word else str(count or 1)


def rates_by_seed(spread: RuleSpread) -> str:
    """List a rule's rates, in the order of the seeds."""
    return ", ".join(percent(rate) for rate in spread.rates)
