"""Call a rule: what it is handed for one answer, what comes out, and when it is the rule that is broken."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import pytest

from pytest_finetune.errors import FinetuneError
from pytest_finetune.judging.rule import RuleBroken
from pytest_finetune.suite.arm_view import as_response
from pytest_finetune.suite.markers import PER_ROW, WHOLE

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.arm_plans import ArmPlan
    from pytest_finetune.answering.response import Response
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.suite.rules.judges import Pass

# These say something about the answer; any other exception says something about the rule.
ROW_FAILURES: Final = (AssertionError, ValueError, LookupError, TypeError, AttributeError)
MESSAGE_CHARS: Final = 300
MESSAGES_KEPT: Final = 300
NO_LABEL: Final = ""
OTHER: Final = "(other labels)"
MOST_LABELS: Final = 30
_LABEL_CHARS: Final = 60


class NotSetUp(FinetuneError):
    """A rule is to judge before its own fixtures are there."""


class AnsweredRun(Protocol):
    """What a rule may ask of the run that it judges: rows, and each arm's answers to them."""

    @property
    def arms(self) -> Mapping[str, ArmPlan]:
        """The arms of the experiment, by name."""
        ...

    def rows_of(self, suite: str | None) -> Rows:
        """Return the held-out rows of a suite; None is `eval_file`."""
        ...

    def answers(self, arm: str, suite: str | None = None, rows: Rows | None = None) -> Mapping[str, Answer]:
        """Return an arm's answers by row id; `rows` are those of a suite that stands in no file."""
        ...


@dataclass(slots=True)
class ArmScores:
    """What one arm got: a score for each row (None: skipped), and the message of each failed row."""

    scores: list[float | None] = field(default_factory=list)
    messages: dict[str, str] = field(default_factory=dict)
    causes: list[Exception | None] = field(default_factory=list, repr=False)
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a rule gave on every row and arm, not judged yet; `more` is for the record alone."""

    rows: Sequence[str]
    arms: Mapping[str, ArmScores]
    groups: Sequence[str | None] | None = None
    more: Mapping[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Return the record's form."""
        skipped = {
            row
            for arm in self.arms.values()
            for row, score in zip(self.rows, arm.scores, strict=True)
            if score is None
        }
        return {
            "outcome": "undecided",
            "rows": list(self.rows),
            "groups": self.groups,
            "skipped": sorted(skipped),
            "scores": {name: arm.scores for name, arm in self.arms.items()},
            "messages": {name: arm.messages for name, arm in self.arms.items() if arm.messages},
            **self.more,
        }


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


class Confusion:
    """The `confusion` of one arm; a model may say anything, so rare labels beyond the thirtieth share one column."""

    def __init__(self) -> None:
        self._pairs: Counter[tuple[str, str]] = Counter()

    def __call__(self, expected: str | None, given: str | None) -> None:
        """Count an answer; None is an answer without a label."""
        self._pairs[_short(expected), _short(given)] += 1

    def table(self) -> dict[str, dict[str, int]]:
        """Return ``{expected: {given: count}}`` in alphabetical order."""
        totals: Counter[str] = Counter()
        for (expected, given), count in self._pairs.items():
            totals[given] += count
            totals[expected] += 0
        wanted = {expected for expected, _ in self._pairs}
        known = wanted | {label for label, _ in totals.most_common(MOST_LABELS)}
        found: dict[str, dict[str, int]] = {}
        for (expected, given), count in sorted(self._pairs.items()):
            column = given if given in known else OTHER
            row = found.setdefault(expected, {})
            row[column] = row.get(column, 0) + count
        return found


def _short(label: str | None) -> str:
    return NO_LABEL if label is None else str(label)[:_LABEL_CHARS]


class RuleMisuse(FinetuneError):
    """A rule is written in a way that the loop over rows cannot run."""


class PerRow:
    """A stand-in; using it (in a fixture, or through getfixturevalue) is a misuse that says what to do instead."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> NoReturn:
        raise RuleMisuse(f"{self._name}.{attribute}: {self._advice}")

    def __call__(self, *args: object) -> NoReturn:
        """Refuse ``score(...)`` outside the loop."""
        raise RuleMisuse(f"{self._name}(...): {self._advice}")

    @property
    def _advice(self) -> str:
        return f"take `{self._name}` in the rule's own signature; a fixture is set up once, not for every row"


def stand_in(request: pytest.FixtureRequest, name: str) -> PerRow:
    """Return what a rule's set-up sees of a value that each row has of its own."""
    if request.node.get_closest_marker("eval_rule") is None:
        pytest.fail(
            f"{name}: exists inside a rule only: mark the test with @pytest.mark.eval_rule", pytrace=False
        )
    return PerRow(name)


def caller(
    item: pytest.Function, confusion: Confusion, early: Mapping[str, object] = MappingProxyType({})
) -> Callable[[Response, Row], float]:
    """Return a function that runs the rule on one answer and gives its score; row failures pass through."""
    values = set_up_with(item, early)
    # What the rule asks for alone: this is made anew for every answer.
    asked = {name: values[name] for name in item._fixtureinfo.argnames}

    def call(response: Response, row: Row) -> float:
        return called(item, {**asked, "response": response, "example": row, "confusion": confusion}, Score())

    return call


def called(item: pytest.Function, values: Mapping[str, object], score: Score) -> float:
    """Run the rule once with what it asks for of `values`, and return its score."""
    names = item._fixtureinfo.argnames
    returned = item.obj(**{name: score if name == "score" else values[name] for name in names})
    if returned is not None:
        raise RuleBroken(f"it returned {returned!r}: a rule asserts, or calls score(x); it returns nothing")
    return 1.0 if score.value is None else score.value


def set_up_with(item: pytest.Function, early: Mapping[str, object]) -> dict[str, object]:
    """Return what a rule was set up with; before and after its turn only `early` and what each row has."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    known: dict[str, object] = {**dict.fromkeys(PER_ROW | WHOLE), **params, **early, **(item.funcargs or {})}
    absent = [name for name in item._fixtureinfo.argnames if name not in known]
    if absent:
        raise NotSetUp(
            f"rule {item.name!r} asks for {', '.join(absent)}, which is set up only when its turn comes: "
            "prompt.candidates are ranked before that\n  let the primary rule take response, example and score only"
        )
    return known


def arm_scores(
    call: Callable[[Response, Row], float],
    rows: Sequence[Row],
    answers: Mapping[str, Answer],
    judge: Pass | None = None,
) -> ArmScores:
    """Return what a rule gives the answers to these rows; a judge is asked only what it has not said before."""
    found = ArmScores()
    given = [(as_response(answers[row.id]), row) for row in rows]
    if judge is not None:
        judge.prepare(given)
    for response, row in given:
        ask = partial(outcome, partial(call, response, row))
        value, message, cause = ask() if judge is None else judge.verdict(response, row, ask)
        found.scores.append(_whole(value))
        found.causes.append(cause)
        if message is not None and len(found.messages) < MESSAGES_KEPT:
            found.messages[row.id] = message[:MESSAGE_CHARS]
    return found


def _whole(value: float | None) -> float | None:
    return int(value) if value is not None and value in {0.0, 1.0} else value


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


def refuse_broken(found: Mapping[str, ArmScores]) -> None:
    """Raise when every row of every arm ended in one and the same exception: that is the rule, not the answers."""
    causes = [cause for arm in found.values() for cause in arm.causes]
    first = causes[0] if causes else None
    if first is None or isinstance(first, (AssertionError, json.JSONDecodeError)) or _about_the_answer(first):
        return
    if all(type(cause) is type(first) and str(cause) == str(first) for cause in causes):
        where = _where(first)
        raise RuleBroken(
            f"{type(first).__name__}: {first} on all {len(causes)} answers of every arm{where}; "
            "an error that no answer escapes is the rule's own"
        ) from first


def _about_the_answer(error: Exception) -> bool:
    return type(error).__name__ == "NotJson" or type(error).__module__.startswith("jsonschema")


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" (line {trace.tb_lineno} of {trace.tb_frame.f_code.co_name})" if trace is not None else ""
