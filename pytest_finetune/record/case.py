"""Read a record's facts back into what the decision works on: the same path while it runs and when it is verified."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_finetune.answering.arm_plans import TRIVIAL, is_seed_arm, seed_arm
from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging import recipe, score
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import judge
from pytest_finetune.judging.drift import Drift
from pytest_finetune.judging.growth import Growth
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores, SelfTest, missing, tabulate
from pytest_finetune.judging.slices import sliced
from pytest_finetune.record.thinking import cut_while_thinking
from pytest_finetune.yamlfile import Json, JsonTree

if TYPE_CHECKING:
    from pytest_finetune.judging.recipe import Recipe
    from pytest_finetune.judging.score import Score
    from pytest_finetune.judging.thresholds import RuleVerdict


def rules_in(tree: Json) -> tuple[Rule, ...]:
    """Return the rules of an experiment by name, whether they ran or not.

    By name, as they stand in the file: a record that was read back decides in the same words.
    """
    return tuple(Rule.of_json(name, facts) for name, facts in sorted(tree.get("rules", {}).items()))


def scores_of(tree: Json, name: str) -> Scores:
    """Return what a rule gave on every row and arm; not executed when it did not run."""
    facts = tree["rules"][name]
    rows = tuple(facts.get("rows") or ())
    if facts["outcome"] == "error":
        why = tuple(facts["reasons"]) or ("it ended as an error",)
        return Scores(name, rows, errors=why, lacks=facts.get("lacks", ""))
    if "scores" not in facts:
        return Scores(name, rows, executed=False, errors=tuple(facts["reasons"]))
    arms = {arm: floats(given) for arm, given in sorted(facts["scores"].items()) if not is_seed_arm(arm)}
    slices = {part: tuple(members) for part, members in (facts.get("slice_rows") or {}).items()}
    noise = tuple(floats(run) for run in facts.get("noise") or ())
    judged = facts.get("verdicts") or {}
    return Scores(
        name,
        rows,
        tuple(facts.get("groups") or ()),
        arms,
        noise=noise,
        slices=slices,
        contradicted=frozenset(judged.get("contradicted", ())),
        labels=judged.get("labels", {}),
        self_test=SelfTest.of_json(facts.get("self_test")),
    )


def floats(given: Iterable[float | None]) -> tuple[float | None, ...]:
    """Return recorded scores as numbers with a fraction."""
    return tuple(None if value is None else float(value) for value in given)


def judged_answers(rule: Json, arm: str) -> tuple[str, frozenset[str]]:
    """Return under which name the record holds the answers of an arm that a rule judged, and to which rows.

    A corpus rule judges all of them and scores no row; an invariance rule judges those to the perturbed rows.
    """
    suite, ways = rule.get("suite"), rule.get("invariant_to")
    if ways:
        suite = f"{suite or 'eval'}~{'+'.join(ways)}"
    rows = () if rule.get("corpus") else rule.get("rows") or ()
    return f"{arm}@{suite}" if suite else arm, frozenset(rows)


def expected_arms(tree: Json) -> tuple[str, ...]:
    """Return the arms that a verdict rests on, whether they answered or not: those of single seeds show a recipe."""
    return tuple(arm for arm in tree.get("planned_arms", ()) if not is_seed_arm(arm))


def looked_arms(tree: Json) -> tuple[str, ...]:
    """Return the arms whose answers make a look another one; what needs no model follows from the rows."""
    return tuple(arm for arm in judged_arms(tree) if tree["planned_arms"][arm]["model"] not in TRIVIAL)


def judged_arms(tree: Json) -> tuple[str, ...]:
    """Return the planned arms of the first runtime, in which the decision is made."""
    return tuple(arm for arm in expected_arms(tree) if not arm.startswith("tuned@"))


def defaults_of(tree: Json) -> DecisionDefaults:
    """Return the experiment's decision defaults."""
    return DecisionDefaults(**tree["config"]["decision"])


def case_of(tree: Json, only: str | None = None) -> Case:
    """Return everything that the decision rests on; `only` the scores of one rule, where that one alone is judged."""
    rules = rules_in(tree)
    arms, planned = tree.get("arms", {}), tree.get("planned_arms", {})
    digests = [arms.get(arm, {}).get("answers_sha256") for arm in ("baseline", "tuned")]
    return Case(
        rules=rules,
        scores={rule.name: scores_of(tree, rule.name) for rule in rules if only in {None, rule.name}},
        defaults=defaults_of(tree),
        looks=tree.get("looks", {}).get("k", 1),
        arms=tuple(sorted(expected_arms(tree))),
        shown=tuple(
            name for name in sorted(expected_arms(tree)) if name != "tuned" and not planned[name]["opponent"]
        ),
        margins={name: plan["min_gain"] for name, plan in planned.items() if plan["min_gain"] is not None},
        answers_differ=digests[0] != digests[1] if all(digests) else None,
        delta_nonzero=(tree.get("training") or {}).get("delta_nonzero"),
        problems=problems_of(tree),
        cut=cut_while_thinking(tree),
        drift=drift_of(tree),
        growth=Growth.of_json(tree.get("looks", {}).get("growth")),
    )


def recipe_of(tree: Json) -> Recipe | None:
    """Return what the seeds show together; None where one seed was trained, or not all of them were."""
    seeds = [seed_arm(one["seed"]) for one in (tree.get("recipe") or {}).get("seeds", ())]
    if not seeds:
        return None
    rules = rules_in(tree)
    scores = {rule.name: _scores_of_seeds(tree, rule.name, seeds) for rule in rules}
    return recipe.recipe_of(rules, scores, seeds, defaults_of(tree))


def _scores_of_seeds(tree: Json, name: str, seeds: Sequence[str]) -> Scores:
    """Return what a rule gave the base and each seed: what the judged adapter rests on is told apart."""
    given, scores = tree["rules"][name].get("scores") or {}, scores_of(tree, name)
    arms = {arm: floats(given[arm]) for arm in ("baseline", *seeds) if arm in given}
    return replace(scores, arms=arms, noise=(), slices={}, contradicted=frozenset(), labels={})


def drift_of(tree: Json) -> Drift | None:
    """Return the drift from the base on neutral prompts; None where it was switched off or not reached."""
    return Drift.read(tree.get("drift"), defaults_of(tree).confidence)


def problems_of(tree: Json) -> tuple[str, ...]:
    """Return why nothing can be decided: what closed the gate."""
    gate = tree.get("gate")
    if not gate:
        return ()
    because = f": {gate['because']}" if gate["because"] else ""
    return (f"the {gate['stage']} stage failed in {gate['by']}{because}",)


def score_of(tree: Json, rule: str, arm: str) -> Score:
    """Return an arm's score under a rule that ran; ValueError says what is missing when it has none."""
    spec, look = _spec_of(tree, rule), tree.get("looks", {}).get("k", 1)
    return score.score_of(spec, scores_of(tree, rule), arm, defaults_of(tree), look)


def rates_of(tree: Json, rule: str) -> dict[str, JsonTree]:
    """Return what a rule that ran gave, by arm, in the record's form; a corpus rule counts no rows."""
    spec, look = _spec_of(tree, rule), tree.get("looks", {}).get("k", 1)
    scores = scores_of(tree, rule)
    if spec.corpus:
        whole = {arm: value for arm, (value,) in scores.arms.items()}
        return {
            arm: {"passed": value, "total": 1, "rate": value, "interval": None}
            for arm, value in whole.items()
        }
    for problem in missing(spec, scores, list(scores.arms)):
        raise ValueError(problem)
    table, levels = tabulate(spec, scores), spec.levels(defaults_of(tree), look)
    found: dict[str, JsonTree] = {arm: score.read(table, arm, levels).facts() for arm in table.arms}
    if spec.slice is not None:
        parts = sliced(table, levels)
        for arm, facts in found.items():
            facts["slices"] = {part.name: part.facts(arm) for part in parts}
    return found


def _spec_of(tree: Json, rule: str) -> Rule:
    return next(spec for spec in rules_in(tree) if spec.name == rule)


def judged_rule(tree: Json, name: str) -> RuleVerdict:
    """Judge one rule by its own thresholds."""
    return judge(case_of(tree, only=name), name)
