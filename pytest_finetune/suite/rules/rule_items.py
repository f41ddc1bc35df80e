"""One `eval_rule` item: the rule is called for every held-out row and every arm, then judged by its thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_finetune.answering.arm_plans import BASELINE, TUNED, asking_order
from pytest_finetune.data.rows import members
from pytest_finetune.judging.rule import Rule, RuleBroken
from pytest_finetune.record.case import judged_rule, score_of, slices_of
from pytest_finetune.suite.collection import place_of
from pytest_finetune.suite.rules import invariance, whole_file
from pytest_finetune.suite.rules.calling import ArmScores, Confusion, arm_scores, caller, refuse_broken
from pytest_finetune.suite.rules.rule_marks import rule_of
from pytest_finetune.suite.steps.arm_views import as_response

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.suite.run import ExperimentRun
    from pytest_finetune.suite.session import FinetuneSession


def run_rule_item(session: FinetuneSession, item: pytest.Function) -> None:
    """Run the rule over its suite and raise the item's outcome; the facts are put down in either case."""
    place = place_of(item)
    assert place is not None
    assert place.experiment is not None
    run = session.run(place.experiment)
    rule = rule_of(item)
    facts: dict[str, Any] = {"outcome": "error"}
    try:
        rows = run.rows_of(rule.suite)
        facts["rows"] = [row.id for row in rows]
        facts |= scored(run, item, rule, rows)
        if rule.suite is None and rule.paired and run.experiment.decision.noise_runs:
            facts["noise"] = [scores_on(item, rows, answers) for answers in run.noise]
        run.note(("rules", rule.name), facts)
        _judge(run, rule, rows, facts)
    except (RuleBroken, pytest.fail.Exception) as stop:
        if isinstance(stop, RuleBroken):
            run.note(("rules", rule.name), {**facts, "outcome": "error", "reasons": [str(stop)]})
            pytest.fail(f"rule {rule.name!r} is broken: {stop}", pytrace=False)
        if facts["outcome"] == "error":
            run.note(("rules", rule.name), {**facts, "reasons": [str(stop).splitlines()[0]]})
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        run.note(("rules", rule.name), {**facts, "outcome": "error", "reasons": [text]})
        raise


def scored(run: ExperimentRun, item: pytest.Function, rule: Rule, rows: Rows) -> dict[str, Any]:
    """Run the rule over every row and arm and return its facts, not judged yet; RuleBroken when it judges nothing."""
    if rule.invariant_to:
        return invariance.facts(run, item, rule, rows)
    if not len(rows):
        raise RuleBroken(f"{rows.path} holds no row to judge")
    arms = tuple(run.arms) if rule.suite is None else (BASELINE, TUNED)
    if rule.corpus:
        return whole_file.facts(run, item, rule, rows, arms)
    return _score_facts(rule, rows, _scores(run, item, rule, rows, arms))


def _scores(
    run: ExperimentRun, item: pytest.Function, rule: Rule, rows: Rows, arms: Sequence[str]
) -> dict[str, ArmScores]:
    found: dict[str, ArmScores] = {}
    for arm in asking_order(arms):
        answers = run.answers(arm, rule.suite)
        confusion = Confusion()
        call = caller(item, confusion)
        found[arm] = arm_scores(call, rows, {id_: as_response(answer) for id_, answer in answers.items()})
        found[arm].confusion = confusion.table()
    ordered = {arm: found[arm] for arm in arms}
    refuse_broken(ordered)
    return ordered


def scores_on(
    item: pytest.Function, rows: Sequence[Row], answers: Mapping[str, Answer]
) -> list[float | int | None]:
    """Return what a rule gives further answers, a score for each row (None: skipped)."""
    responses = {id_: as_response(answer) for id_, answer in answers.items()}
    return [_number(value) for value in arm_scores(caller(item, Confusion()), rows, responses).scores]


def _score_facts(rule: Rule, rows: Sequence[Row], found: Mapping[str, ArmScores]) -> dict[str, Any]:
    return {
        "outcome": "undecided",
        "rows": [row.id for row in rows],
        "groups": [row.group for row in rows] if any(row.group for row in rows) else None,
        "slice_rows": members(rows, rule.slice) if rule.slice else None,
        "skipped": sorted(set(_skipped(rows, found))),
        "scores": {arm: [_number(value) for value in scores.scores] for arm, scores in found.items()},
        "messages": {arm: scores.messages for arm, scores in found.items() if scores.messages},
        "confusion": {arm: scores.confusion for arm, scores in found.items() if scores.confusion},
    }


def _skipped(rows: Sequence[Row], found: Mapping[str, ArmScores]) -> Iterator[str]:
    for scores in found.values():
        yield from (row.id for row, value in zip(rows, scores.scores, strict=True) if value is None)


def _number(value: float | None) -> float | int | None:
    return int(value) if value is not None and value in {0.0, 1.0} else value


def _judge(run: ExperimentRun, rule: Rule, rows: Rows, facts: dict[str, Any]) -> None:
    """Judge the rule by its thresholds; raise when it fails or cannot be judged."""
    _ = run.looks
    tree = run.tree()
    verdict = judged_rule(tree, rule.name)
    if verdict.outcome in {"passed", "failed"}:
        for arm, rate in _rates(tree, rule, facts).items():
            part = ("arms", arm if rule.suite is None else f"{arm}@{rule.suite}", "rules", rule.name)
            run.note(part, rate)
    facts["outcome"] = verdict.outcome
    run.note(("rules", rule.name), {**facts, "reasons": list(verdict.reasons)})
    if verdict.outcome != "passed":
        word = "does not hold" if verdict.outcome == "failed" else "cannot be judged"
        _fail(f"rule {rule.name!r} {word}", verdict.reasons, _shown_rows(rows, facts))


def _rates(tree: Mapping[str, Any], rule: Rule, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the record's form of each arm's score under the rule."""
    if rule.corpus:
        return whole_file.rates(facts)
    slices = slices_of(tree, rule.name)
    found = {}
    for arm in facts["scores"]:
        score = score_of(tree, rule.name, arm)
        found[arm] = {
            "passed": score.passed,
            "total": score.total,
            "rate": score.rate,
            "interval": list(score.interval),
            **({"slices": slices[arm]} if slices else {}),
        }
    return found


def _shown_rows(rows: Rows, facts: Mapping[str, Any]) -> list[str]:
    """Name the first failed rows of the tuned arm by file and line."""
    messages = facts.get("messages", {}).get("tuned", {})
    if whole_file.ALL in messages:
        return [f"  {messages[whole_file.ALL].splitlines()[0]}"]
    places = {row.id: row.place for row in rows}
    failed = [row for row in messages if row.partition("~")[0] in places]
    shown = [
        f"  {places[row.partition('~')[0]]}: {(messages[row].splitlines() or [''])[0]}" for row in failed[:3]
    ]
    if len(failed) > len(shown):
        shown.append(f"  ... {len(failed)} failed rows in the tuned arm; all of them are in the record")
    return shown


def _fail(headline: str, reasons: Sequence[str], rows: Sequence[str]) -> NoReturn:
    pytest.fail("\n".join([headline, *(f"  {reason}" for reason in reasons), *rows]), pytrace=False)
