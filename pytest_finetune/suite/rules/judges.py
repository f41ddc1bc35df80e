"""A judged rule: what its judge said before is repeated, and only what is missing is asked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol, cast

from pytest_finetune.answering.arm_plans import BASELINE, TUNED
from pytest_finetune.fingerprint import digest
from pytest_finetune.store.verdicts import Asked, Verdict
from pytest_finetune.suite.rules.rule_marks import rule_digest

if TYPE_CHECKING:
    import pytest

    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.response import Response
    from pytest_finetune.data.rows import Row
    from pytest_finetune.judging.rule import Rule
    from pytest_finetune.suite.context import Context

TWICE: Final = (BASELINE, TUNED)
"""The arms whose answers are judged a second time; the decision rests on these two."""
MESSAGE_CHARS: Final = 300
# The last digit of a grade trembles on every row, and were each of those noisy, no graded judge could show a gain. A
# quarter is one step between bad, poor, fair, good and excellent: who is further apart has changed the verdict.
_TREMBLING: Final = 0.25

Outcome = tuple[float | None, str | None, Exception | None]
Answers = Mapping[str, "Answer"]


class ManyAtOnce(Protocol):
    """What a rule's function may carry as its `judge`: a name, and a way to ask about many answers at once."""

    name: str

    def prepare(self, asked: Sequence[tuple[Response, Row]]) -> None:
        """Ask about these answers, so that the calls of the rule which follow need not wait one by one."""


class Judging:
    """The judge of one rule: every verdict that is stored, and those that are given now."""

    def __init__(self, context: Context, item: pytest.Function, rule: Rule) -> None:
        self._many: ManyAtOnce | None = getattr(inspect.unwrap(item.function), "judge", None)
        self._name = self._many.name if self._many else rule.name
        self._pairwise = rule.pairwise
        self._text = rule_digest(item, asked=False)
        self._book = context.store.verdicts
        self._known = {} if context.settings.rejudge else self._book.read()
        self._given: dict[Asked, Verdict] = {}
        self._doubtful: set[Asked] = set()

    def number(self, number: int) -> Pass:
        """Return a pass of this judge over answers, counted from 1."""
        return Pass(self, number)

    def asked(self, answer: str, row: Row, number: int) -> Asked:
        """Name a question to this judge."""
        return Asked.of(answer, row.digest, self._text, self._name, number)

    def verdict(self, asked: Asked, ask: Callable[[], Outcome]) -> Outcome:
        """Return what the judge said to a question, asked now unless that is known."""
        known = self._known.get(asked)
        if known is not None:
            return known.score, known.message, None
        score, message, cause = ask()
        given = Verdict(score, None if message is None else message[:MESSAGE_CHARS])
        self._known[asked] = self._given[asked] = given
        if cause is not None and not isinstance(cause, AssertionError):
            self._doubtful.add(asked)
        return score, message, cause

    def prepare(self, questions: Mapping[Asked, tuple[Response, Row]]) -> None:
        """Let a judge that can be asked many things at once answer what is missing."""
        missing = [pair for asked, pair in questions.items() if asked not in self._known]
        if self._many is not None and missing:
            self._many.prepare(missing)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Store what was said, also where the judge stops answering; then without what may be the rule's own error."""
        try:
            yield
        except BaseException:
            self._book.write(
                {asked: said for asked, said in self._given.items() if asked not in self._doubtful}
            )
            raise
        self._book.write(self._given)

    def spoken(self, rows: Sequence[Row], answers: Mapping[str, Answers]) -> str | None:
        """Return the digest of every verdict on these answers; None while one is missing."""
        asked = self._questions(rows, answers)
        if any(one not in self._known for one in asked):
            return None
        return digest(sorted([*one, self._known[one].score] for one in asked))

    def as_json(self, rows: Sequence[Row], answers: Mapping[str, Answers]) -> dict[str, object]:
        """Return the record's form, once all have been asked."""
        asked = self._questions(rows, answers)
        new = sum(one in self._given for one in asked)
        contradicted = (row.id for row in rows if self._contradicted(answers, row))
        return {
            "judge": self._name,
            "passes": 2,
            "contradicted": list(contradicted),
            "asked": new,
            "stored": len(asked) - new,
            "sha256": self.spoken(rows, answers),
        }

    def _questions(self, rows: Sequence[Row], answers: Mapping[str, Answers]) -> set[Asked]:
        return {
            self.asked(given[row.id].response, row, number)
            for arm, given in answers.items()
            for number in ((1, 2) if arm in TWICE and not self._pairwise else (1,))
            for row in rows
        }

    def _contradicted(self, answers: Mapping[str, Answers], row: Row) -> bool:
        """Tell whether the second asking changed a verdict: the same again, or of two answers the other one first."""
        if self._pairwise:
            base, tuned = (self._said(answers[arm][row.id], row, 1) for arm in TWICE)
            return _apart(tuned, None if base is None else 1 - base)
        found = [answers[arm][row.id] for arm in TWICE]
        return any(_apart(self._said(one, row, 1), self._said(one, row, 2)) for one in found)

    def _said(self, answer: Answer, row: Row, number: int) -> float | None:
        return self._known[self.asked(answer.response, row, number)].score


def _apart(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is not second
    return abs(first - second) > _TREMBLING


class Pass:
    """One pass of a judge over answers."""

    def __init__(self, judging: Judging, number: int) -> None:
        self._judging = judging
        self._number = number

    def prepare(self, responses: Sequence[tuple[Response, Row]]) -> None:
        """Let the judge answer at once what it can."""
        self._judging.prepare({self._asked(response, row): (response, row) for response, row in responses})

    def verdict(self, response: Response, row: Row, ask: Callable[[], Outcome]) -> Outcome:
        """Return what the judge says of an answer."""
        return self._judging.verdict(self._asked(response, row), ask)

    def _asked(self, response: Response, row: Row) -> Asked:
        return self._judging.asked(response.text, row, self._number)


def judging_of(context: Context, item: pytest.Item, rule: Rule) -> Judging | None:
    """Return the judge of a rule; None for a rule that says the same whenever it is asked."""
    return Judging(context, cast("pytest.Function", item), rule) if rule.judge else None
