"""Compute a decision again from what a record holds of every row, and name where the record says otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_finetune.judging.decision import decide, pairs_of
from pytest_finetune.record.case import case_of, drift_of, rates_of, recipe_of
from pytest_finetune.wording import one_line
from pytest_finetune.yamlfile import Json

if TYPE_CHECKING:
    from pytest_finetune.judging.decision import Decision

# Statistics of other versions of numpy and scipy may differ in the last digits, never by this much.
_TOLERANCE: Final = 1e-6
# Texts: what another version of this package may word otherwise.
_TEXTS: Final = frozenset({"reasons", "plan_line", "sentence"})
_DECIDED: Final = (
    "verdict", "keep", "undecided", "looks", "alpha", "rules_sha256", "examples_needed", "reasons", "plan_line",
)  # fmt: skip


class Contradiction(NamedTuple):
    """One place of the record that does not follow from its rows."""

    place: str
    recorded: object
    computed: object

    def __str__(self) -> str:
        recorded, computed = (one_line(repr(value), 120) for value in (self.recorded, self.computed))
        return f"{self.place} is {recorded}, its rows give {computed}"


def decision_of(experiment: Json) -> Decision:
    """Decide from the per-row outcomes, thresholds and look of an experiment's record."""
    return decide(case_of(_tree(experiment)))


def contradictions(experiment: Json, *, texts: bool) -> Iterator[Contradiction]:
    """Yield where decision, comparisons, rules and rates do not follow from the rows.

    `texts` compares sentences as well: right when this version wrote the record.
    """
    decision = decision_of(experiment)
    yield from _decision(experiment["decision"], decision, texts=texts)
    yield from _comparisons(experiment["comparisons"], decision, texts=texts)
    yield from _rules(experiment["rules"], decision, texts=texts)
    yield from _rates(experiment)
    yield from _pairs(experiment)
    yield from _drift(experiment)
    yield from _recipe(experiment, texts=texts)


def _tree(experiment: Json) -> dict[str, Any]:
    """Return the facts as the decision takes them; the look stands in the recorded decision."""
    decided = experiment.get("decision") or {}
    return {**experiment, "looks": {"k": decided.get("looks") or 1, "growth": decided.get("growth")}}


def _decision(recorded: Json, decision: Decision, *, texts: bool) -> Iterator[Contradiction]:
    computed = decision.as_json()
    for name in _DECIDED:
        if (texts or name not in _TEXTS) and not same(recorded.get(name), computed[name]):
            yield Contradiction(f"decision.{name}", recorded.get(name), computed[name])
    if texts:  # diagnoses add risks of their own
        missing = [risk for risk in computed["risks"] if risk not in recorded.get("risks", ())]
        if missing:
            yield Contradiction("decision.risks", recorded.get("risks"), computed["risks"])


def _comparisons(recorded: Sequence[Json], decision: Decision, *, texts: bool) -> Iterator[Contradiction]:
    found = {(one["rule"], one["against"]): one for one in recorded}
    computed = {(one.rule, one.against): one.as_json() for one in decision.comparisons}
    if len(found) != len(recorded) or found.keys() != computed.keys():
        pairs = [sorted(" over ".join(pair) for pair in keys) for keys in (found, computed)]
        yield Contradiction("the list of comparisons", *pairs)
    for pair in found.keys() & computed.keys():
        for name, value in computed[pair].items():
            if (texts or name not in _TEXTS) and not same(found[pair].get(name), value):
                place = f"comparisons, {pair[0]} over {pair[1]}: {name}"
                yield Contradiction(place, found[pair].get(name), value)


def _rules(recorded: Mapping[str, Json], decision: Decision, *, texts: bool) -> Iterator[Contradiction]:
    for verdict in decision.rules:
        facts = recorded[verdict.name]
        if facts["outcome"] != verdict.outcome:
            yield Contradiction(f"rules.{verdict.name}.outcome", facts["outcome"], verdict.outcome)
        elif texts and not same(facts.get("reasons"), list(verdict.reasons)):
            yield Contradiction(f"rules.{verdict.name}.reasons", facts.get("reasons"), list(verdict.reasons))


def _rates(experiment: Json) -> Iterator[Contradiction]:
    tree = _tree(experiment)
    rated = {rule for facts in experiment["arms"].values() for rule in facts["rules"]}
    computed = {rule: rates_of(tree, rule) for rule in rated}
    for arm, facts in experiment["arms"].items():
        for rule, rate in facts["rules"].items():
            judged = arm if arm in computed[rule] else arm.rpartition("@")[0]
            for name, value in computed[rule][judged].items():
                if not same(rate.get(name), value):
                    yield Contradiction(f"arms.{arm}.rules.{rule}.{name}", rate.get(name), value)


def _drift(experiment: Json) -> Iterator[Contradiction]:
    drift = drift_of(experiment)
    recorded, computed = experiment.get("drift") or {}, drift.facts() if drift else {}
    for name, value in computed.items():
        if not same(recorded.get(name), value):
            yield Contradiction(f"drift.{name}", recorded.get(name), value)


def _recipe(experiment: Json, *, texts: bool) -> Iterator[Contradiction]:
    recipe, recorded = recipe_of(_tree(experiment)), experiment.get("recipe") or {}
    for name, value in (recipe.as_json() if recipe else {}).items():
        if (texts or name not in _TEXTS) and not same(recorded.get(name), value):
            yield Contradiction(f"recipe.{name}", recorded.get(name), value)


def _pairs(experiment: Json) -> Iterator[Contradiction]:
    """Yield where the comparisons without the tuned arm do not follow; an older record has none."""
    if "pairs" not in experiment:
        return
    names = ("rule", "arm", "against")
    recorded, computed = (
        {tuple(str(one[name]) for name in names): one for one in pairs}
        for pairs in (experiment["pairs"], pairs_of(case_of(_tree(experiment))))
    )
    for pair in sorted(recorded.keys() | computed.keys()):
        if not same(recorded.get(pair), computed.get(pair)):
            rule, arm, against = pair
            place = f"pairs, {rule}: {arm} over {against}"
            yield Contradiction(place, recorded.get(pair), computed.get(pair))


def same(one: object, other: object) -> bool:
    """Tell whether two values of a record are one, but for the last digits of a number."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other
