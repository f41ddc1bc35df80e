"""One `eval_rule` item: the rule is called for every held-out row and every arm, then judged by its thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

import pytest

from pytest_finetune.answering.arm_plans import TUNED, asking_order, is_seed_arm
from pytest_finetune.answering.pairs import paired
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.data.catalogue import quoted
from pytest_finetune.data.rows import members
from pytest_finetune.judging.agreement import Agreement
from pytest_finetune.judging.rule import Rule, RuleBroken
from pytest_finetune.judging.scores import Scores
from pytest_finetune.record.case import judged_rule, rates_of
from pytest_finetune.suite.arm_view import as_response
from pytest_finetune.suite.parts import first_line, unmade
from pytest_finetune.suite.rules import invariance
from pytest_finetune.suite.rules.calling import (
    MESSAGE_CHARS,
    AnsweredRun,
    ArmScores,
    Confusion,
    Outcomes,
    Score,
    arm_scores,
    called,
    caller,
    outcome,
    refuse_broken,
)
from pytest_finetune.suite.rules.gold_answers import EARLY, waits
from pytest_finetune.suite.rules.judge_labels import labels_of
from pytest_finetune.suite.rules.judges import TWICE, Judging, Pass, judging_of
from pytest_finetune.suite.rules.rule_marks import rule_of, rules_of
from pytest_finetune.suite.steps.data_step import file_of

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.suite.context import Context

ALL: Final = "all rows"
"""The one row of a corpus rule in the record: all of them."""
SHOWN: Final = 3
QUOTED_CHARS: Final = 160
SAMPLE: Final = 20
"""So many answers of the tuned and of the base model are scored a second time."""


class JudgedRun(AnsweredRun, Protocol):
    """What judging a rule may ask of the run, besides what the rule itself may ask."""

    @property
    def context(self) -> Context:
        """The experiment, and where facts are recorded."""
        ...

    @property
    def noise(self) -> tuple[Mapping[str, Answer], ...]:
        """The further answers of the base to the held-out rows."""
        ...

    def test_rule(self, item: pytest.Function) -> None:
        """Run a rule on the expected answers before it judges; RuleBroken where it fails one."""
        ...

    def record_formats(self, rule: str) -> None:
        """Record how many answers of each arm have the task's format, and the rate of a rule among those."""
        ...

    @property
    def looks(self) -> int:
        """Which look at these held-out rows this is; settled once all arms have answered."""
        ...


def run_rule_item(run: JudgedRun, item: pytest.Function) -> None:
    """Run the rule over its suite and raise the item's outcome; the facts are recorded in either case."""
    rule = rule_of(item)
    facts: dict[str, object] = {"outcome": "error"}
    try:
        file_of(run.context.experiment, rule.suite)  # one that is not there is the rule's own mistake
        rows = run.rows_of(rule.suite)
        facts["rows"] = [row.id for row in rows]
        run.test_rule(item)
        judging = judging_of(run.context, item, rule)
        outcomes = scored(run, item, rule, rows, judging)
        refuse_chance(run, item, rule, rows, outcomes)
        facts |= outcomes.as_json()
        if rule.judge and not rule.pairwise:
            _check_judge(run, rule, outcomes, facts)
        if (
            rule.suite is None
            and rule.paired
            and not rule.pairwise
            and run.context.experiment.decision.noise_runs
        ):
            facts["noise"] = [scores_on(item, rows, answers, judging) for answers in run.noise]
        run.context.record(("rules", rule.name), facts)
        _judge(run, rule, rows, outcomes, facts)
    except RuleBroken as fault:
        run.context.record(("rules", rule.name), {**facts, "outcome": "error", "reasons": [str(fault)]})
        pytest.fail(f"rule {rule.name!r} is broken: {fault}", pytrace=False)
    except (Exception, pytest.fail.Exception) as stop:
        run.context.record(("rules", rule.name), _stopped(facts, stop))
        raise


def _stopped(facts: dict[str, object], stop: BaseException) -> dict[str, object]:
    """Return the facts of a rule that was stopped: by what it lacks, by its own error, or because it does not hold."""
    lacks = unmade(stop)
    if lacks is not None:
        return {**facts, "outcome": "error", "reasons": [lacks.because], "lacks": lacks.part}
    if not isinstance(stop, pytest.fail.Exception):
        return {**facts, "outcome": "error", "reasons": [f"{type(stop).__name__}: {stop}"]}
    return {**facts, "reasons": [first_line(str(stop))]} if facts["outcome"] == "error" else {}


def _check_judge(run: JudgedRun, rule: Rule, outcomes: Outcomes, facts: dict[str, object]) -> None:
    """Set what people said of the answers beside the verdicts of a judge."""
    experiment = run.context.experiment
    others = [arm for arm, plan in run.arms.items() if plan.opponent and rule.primary]
    checked = tuple(dict.fromkeys((*TWICE, *others)))
    labels = labels_of(
        experiment.root, rule, {arm: run.answers(arm, rule.suite) for arm in checked}, run.arms
    )
    arms = {arm: tuple(outcomes.arms[arm].scores) for arm in checked}
    scores = Scores(rule.name, tuple(outcomes.rows), tuple(outcomes.groups or ()), arms, labels=labels)
    alpha = rule.levels(experiment.decision, 1).brake
    clustered = rule.cluster is not None
    agreement = {arm: Agreement.of(scores, arm, clustered=clustered).as_json(alpha) for arm in checked}
    told = cast("Mapping[str, object]", outcomes.more["verdicts"])
    facts["verdicts"] = {**told, "labels": labels, "agreement": agreement}


def scored(
    run: AnsweredRun, item: pytest.Function, rule: Rule, rows: Rows, judging: Judging | None = None
) -> Outcomes:
    """Run the rule over every row and arm, and judge nothing yet; RuleBroken when there is nothing to judge."""
    if rule.invariant_to:
        return invariance.outcomes(run, item, rule, rows)
    if not len(rows):
        raise RuleBroken(f"{rows.path} holds no row to judge")
    answers = answers_judged(run, rule)
    arms = [arm for arm in run.arms if arm in answers]
    if rule.corpus:
        whole = {arm: _on_corpus(item, rule, rows, given) for arm, given in answers.items()}
        refuse_broken(whole)
        return Outcomes([ALL], {arm: whole[arm] for arm in arms})
    with judging.keeping() if judging else nullcontext():
        first = judging.number(1) if judging else None
        asked = {arm: _on_rows(item, rows, given, first) for arm, given in answers.items()}
        found = {arm: asked[arm] for arm in arms}
        refuse_broken(found)
        if judging and not rule.pairwise:
            for arm in TWICE:
                arm_scores(caller(item, Confusion()), rows, answers[arm], judging.number(2))
    groups = [row.group for row in rows] if any(row.group for row in rows) else None
    tables = {
        arm: scores.confusion for arm, scores in found.items() if scores.confusion and not is_seed_arm(arm)
    }
    more: dict[str, object] = {
        "slice_rows": members(rows, rule.slice) if rule.slice else None,
        "confusion": tables,
    }
    if judging:
        more["verdicts"] = judging.as_json(rows, looked_at(answers))
    return Outcomes([row.id for row in rows], found, groups, more)


def answers_judged(run: AnsweredRun, rule: Rule) -> dict[str, Mapping[str, Answer]]:
    """Return the answers that a rule judges, by arm, each beside that of the other where it compares two."""
    seeds = () if rule.pairwise else tuple(filter(is_seed_arm, run.arms))
    arms = tuple(run.arms) if rule.suite is None and not rule.pairwise else (*TWICE, *seeds)
    found: dict[str, Mapping[str, Answer]] = {arm: run.answers(arm, rule.suite) for arm in asking_order(arms)}
    if not rule.pairwise:
        return found
    return {arm: paired(found[arm], found[other]) for arm, other in (TWICE, TWICE[::-1])}


def looked_at(answers: Mapping[str, Mapping[str, Answer]]) -> dict[str, Mapping[str, Answer]]:
    """Return the answers that make a look another one: all but those of the seeds, on which nothing is decided."""
    return {arm: given for arm, given in answers.items() if not is_seed_arm(arm)}


def _on_rows(
    item: pytest.Function, rows: Rows, answers: Mapping[str, Answer], judge: Pass | None
) -> ArmScores:
    confusion = Confusion()
    found = arm_scores(caller(item, confusion), rows, answers, judge)
    found.confusion = confusion.table()
    return found


def refuse_chance(run: AnsweredRun, item: pytest.Function, rule: Rule, rows: Rows, first: Outcomes) -> None:
    """Score some answers a second time; RuleBroken where one of them is scored otherwise."""
    if rule.judge or not rule.paired:
        return
    step = max(1, len(rows) // SAMPLE)
    sample = list(range(0, len(rows), step))[:SAMPLE]
    for arm in TWICE:
        again = scores_on(item, [rows[i] for i in sample], run.answers(arm, rule.suite))
        for i, second in zip(sample, again, strict=True):
            if second != first.arms[arm].scores[i]:
                told = ", then ".join(map(_said, (first.arms[arm].scores[i], second)))
                raise RuleBroken(
                    f"it scored the same answer {told} ({rows[i].place}): a rule that is not "
                    "the same twice cannot judge; mark it judge=True, which stores its verdicts (docs/rules.md), or "
                    "take the chance out of it"
                )


def _said(score: float | None) -> str:
    return "skipped" if score is None else f"{score:g}"


def _on_corpus(item: pytest.Function, rule: Rule, rows: Rows, answers: Mapping[str, Answer]) -> ArmScores:
    """Call the rule once with all answers, because what it asks is no property of one row."""
    score = Score()
    own = {"responses": [as_response(answers[row.id]) for row in rows], "examples": list(rows)}

    def call() -> float:
        value = called(item, {**item.funcargs, **own}, score)
        if score.value is not None and rule.min_rate is None:
            raise RuleBroken("it is graded by score(x), but nothing is asked of the grade: write min_rate")
        return value

    value, message, cause = outcome(call)
    messages = {} if message is None else {ALL: message[:MESSAGE_CHARS]}
    return ArmScores([value], messages, [cause])


def primary_of(items: Sequence[pytest.Item], chosen: str = "prompt.candidates are ranked") -> pytest.Function:
    """Return the one primary rule that judges row by row; `chosen` says in a message what is done by it."""
    found = _primaries(items)
    if len(found) != 1:
        raise AnsweringError(
            f"{chosen} by the primary rule, and there are {len(found)} that judge row by row\n"
            "  mark exactly one rule with eval_rule(primary=True)"
        )
    return cast("pytest.Function", found[0])


def early_primary(items: Sequence[pytest.Item]) -> pytest.Function | None:
    """Return the primary rule where it judges row by row and needs nothing that is set up only when its turn comes."""
    found = [cast("pytest.Function", item) for item in _primaries(items)]
    ready = len(found) == 1 and not waits(found[0]) and not rule_of(found[0]).pairwise
    return found[0] if ready and not set(found[0]._fixtureinfo.argnames).intersection(EARLY) else None


def _primaries(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the primary rules that judge the held-out rows one by one."""
    return [
        item
        for rule, item in rules_of(items).values()
        if rule.primary and not rule.corpus and rule.suite is None and not rule.invariant_to
    ]


def scores_on(
    item: pytest.Function,
    rows: Sequence[Row],
    answers: Mapping[str, Answer],
    judging: Judging | None = None,
) -> list[float | None]:
    """Return what a rule gives further answers, a score for each row (None: skipped)."""
    with judging.keeping() if judging else nullcontext():
        return arm_scores(
            caller(item, Confusion()), rows, answers, judging.number(1) if judging else None
        ).scores


def _judge(run: JudgedRun, rule: Rule, rows: Rows, outcomes: Outcomes, facts: dict[str, object]) -> None:
    """Judge the rule by its thresholds; raise when it fails or cannot be judged."""
    _ = run.looks
    tree = run.context.facts.tree()
    verdict = judged_rule(tree, rule.name)
    if verdict.outcome in {"passed", "failed"}:
        for arm, rate in rates_of(tree, rule.name).items():
            part = ("arms", arm if rule.suite is None else f"{arm}@{rule.suite}", "rules", rule.name)
            run.context.record(part, rate)
        if rule.primary and rule.suite is None:
            run.record_formats(rule.name)
    facts["outcome"] = verdict.outcome
    run.context.record(("rules", rule.name), {**facts, "reasons": list(verdict.reasons)})
    if verdict.outcome != "passed":
        word = "does not hold" if verdict.outcome == "failed" else "cannot be judged"
        _fail(f"rule {rule.name!r} {word}", verdict.reasons, _shown_rows(run, rule, rows, outcomes))


def _shown_rows(run: JudgedRun, rule: Rule, rows: Rows, outcomes: Outcomes) -> list[str]:
    """Name the first failed rows of the tuned arm by file and line, with what was asked, expected and answered."""
    messages = outcomes.arms[TUNED].messages if TUNED in outcomes.arms else {}
    if ALL in messages:
        return [f"  {messages[ALL].splitlines()[0]}"]
    by_id = {row.id: row for row in rows}
    failed = [name for name in messages if name.partition("~")[0] in by_id]
    answers = {} if rule.invariant_to else run.answers(TUNED, rule.suite)
    shown = []
    for name in failed[:SHOWN]:
        row, message = by_id[name.partition("~")[0]], messages[name].splitlines() or [""]
        shown.append(f"  {row.place}: {message[0]}")
        if row.id in answers:
            said = {"asked": row.input, "expected": row.expected, "answered": answers[row.id].response}
            shown += [f"    {what:<9} {quoted(text, QUOTED_CHARS)}" for what, text in said.items()]
    if len(failed) > len(shown):
        shown.append(f"  ... {len(failed)} failed rows in the tuned arm; all of them are in the record")
    return shown


def _fail(headline: str, reasons: Sequence[str], rows: Sequence[str]) -> NoReturn:
    pytest.fail("\n".join([headline, *(f"  {reason}" for reason in reasons), *rows]), pytrace=False)
