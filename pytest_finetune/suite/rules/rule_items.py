"""One `eval_rule` item: the rule is called for every held-out row and every arm, then judged by its thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from pytest_finetune.answering.arm_plans import BASELINE, TUNED, asking_order
from pytest_finetune.errors import FinetuneError
from pytest_finetune.judging.slices import members
from pytest_finetune.record.case import judged_rule, score_of, slices_of
from pytest_finetune.suite.collection import place_of
from pytest_finetune.suite.markers import PER_ROW, RuleMark
from pytest_finetune.suite.rules import invariance, whole_file
from pytest_finetune.suite.rules.broken_rules import RuleBroken, refuse_broken
from pytest_finetune.suite.rules.confusion import Confusion
from pytest_finetune.suite.rules.rule_marks import rule_of
from pytest_finetune.suite.steps.arm_views import as_response

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.response import Response
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.suite.run import ExperimentRun
    from pytest_finetune.suite.session import FinetuneSession

# These say something about the answer; any other exception says something about the rule.
ROW_FAILURES: Final = (AssertionError, ValueError, LookupError, TypeError, AttributeError)
MESSAGE_CHARS: Final = 300
MESSAGES_KEPT: Final = 300


class NotSetUp(FinetuneError):
    """A rule is to judge before its own fixtures are there."""


@dataclass(slots=True)
class ArmScores:
    """What one arm got: a score for each row (None: skipped), and the message of each failed row."""

    scores: list[float | None] = field(default_factory=list)
    messages: dict[str, str] = field(default_factory=dict)
    causes: list[Exception | None] = field(default_factory=list, repr=False)
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class Score:
    """The `score` of one call: collects one number between 0 and 1."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float | None = None

    def __call__(self, value: float) -> None:
        """Grade this answer."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise RuleBroken(f"score({value!r}): write a number between 0 and 1")
        if self.value is not None:
            raise RuleBroken(f"score({value!r}): this answer was graded {self.value} already; grade it once")
        self.value = float(value)


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


def scored(run: ExperimentRun, item: pytest.Function, rule: RuleMark, rows: Rows) -> dict[str, Any]:
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
    run: ExperimentRun, item: pytest.Function, rule: RuleMark, rows: Rows, arms: Sequence[str]
) -> dict[str, ArmScores]:
    found: dict[str, ArmScores] = {}
    for arm in asking_order(arms):
        answers = run.answers(arm, rule.suite)
        confusion = Confusion()
        call = caller(item, confusion)
        found[arm] = _arm_scores(call, rows, {id_: as_response(answer) for id_, answer in answers.items()})
        found[arm].confusion = confusion.table()
    ordered = {arm: found[arm] for arm in arms}
    refuse_broken(rule, ordered)
    return ordered


def scores_on(
    item: pytest.Function, rows: Sequence[Row], answers: Mapping[str, Answer]
) -> list[float | int | None]:
    """Return what a rule gives further answers, a score for each row (None: skipped)."""
    responses = {id_: as_response(answer) for id_, answer in answers.items()}
    return [_number(value) for value in _arm_scores(caller(item, Confusion()), rows, responses).scores]


def caller(item: pytest.Function, confusion: Confusion) -> Callable[[Response, Row], float]:
    """Return a function that runs the rule once and gives its score; row failures pass through."""
    names = item._fixtureinfo.argnames
    values = _values(item, names)
    function = item.obj

    def call(response: Response, row: Row) -> float:
        score = Score()
        own = {"response": response, "example": row, "score": score, "confusion": confusion}
        returned = function(**{name: own.get(name, values[name]) for name in names})
        if returned is not None:
            raise RuleBroken(
                f"it returned {returned!r}: a rule asserts, or calls score(x); it returns nothing"
            )
        return 1.0 if score.value is None else score.value

    return call


def _values(item: pytest.Function, names: Sequence[str]) -> dict[str, Any]:
    """Return what a rule was set up with; before its turn only what is there for every row is known."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    known = {**dict.fromkeys(PER_ROW), **params, **item.funcargs}
    absent = [name for name in names if name not in known]
    if absent:
        raise NotSetUp(
            f"rule {item.name!r} asks for {', '.join(absent)}, which is set up only when its turn comes: "
            "prompt.candidates are ranked before that\n  let the primary rule take response, example and score only"
        )
    return known


def _arm_scores(
    call: Callable[[Response, Row], float], rows: Sequence[Row] | Rows, answers: Mapping[str, Response]
) -> ArmScores:
    found = ArmScores()
    for row in rows:
        value, message, cause = outcome(partial(call, answers[row.id], row))
        found.scores.append(value)
        found.causes.append(cause)
        if message is not None and len(found.messages) < MESSAGES_KEPT:
            found.messages[row.id] = message[:MESSAGE_CHARS]
    return found


def outcome(call: Callable[[], float]) -> tuple[float | None, str | None, Exception | None]:
    """Return what a rule gave: its score (None: skipped), a message, and the exception that failed it."""
    try:
        return call(), None, None
    except pytest.skip.Exception as skip:
        return None, f"skipped: {skip}", None
    except pytest.fail.Exception as failure:
        if _is_timeout(failure):
            raise
        return 0.0, str(failure), None
    except ROW_FAILURES as error:
        named = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return 0.0, f"{named}{error}", error
    except Exception as error:
        if type(error).__module__.startswith("jsonschema") and type(error).__name__ == "ValidationError":
            return 0.0, str(error).splitlines()[0], error
        raise


def _is_timeout(failure: BaseException) -> bool:
    """Tell pytest-timeout's interruption from a rule's own pytest.fail: a time-out aborts the item, not a row."""
    trace = failure.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == "pytest_timeout":
            return True
        trace = trace.tb_next
    return False


def _score_facts(rule: RuleMark, rows: Sequence[Row], found: Mapping[str, ArmScores]) -> dict[str, Any]:
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


def _judge(run: ExperimentRun, rule: RuleMark, rows: Rows, facts: dict[str, Any]) -> None:
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


def _rates(tree: Mapping[str, Any], rule: RuleMark, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
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
