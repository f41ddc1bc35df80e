"""Rules are tested before they judge: on the answers that the rows expect, and on those that other rows expect.

A rule that fails an expected answer is broken, whatever a model says. One that passes those of other rows as often
cannot tell right from wrong.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

import pytest

from pytest_finetune.answering.response import Response
from pytest_finetune.data.catalogue import quoted
from pytest_finetune.fingerprint import sha256_hex
from pytest_finetune.judging.rule import Rule, RuleBroken
from pytest_finetune.judging.scores import SelfTest, Tally
from pytest_finetune.suite.collection import PARAM, per_row_misuse
from pytest_finetune.suite.markers import PER_ROW, WHOLE, our_fixtures
from pytest_finetune.suite.rules.calling import Confusion, Score, called, caller, outcome, set_up_with
from pytest_finetune.suite.rules.rule_marks import duplicate, rule_of, rules_of
from pytest_finetune.wording import one_line

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row, Rows
    from pytest_finetune.suite.context import Context

EARLY: Final = ("experiment", "charter", "contract", "train_rows", "eval_rows")
"""The fixtures of ours that a rule may take and that are there before anything is trained or asked."""
SECONDS: Final = 1.0
"""So long a rule is tested, then those rows count that it was tested on: plain `pytest` stays fast."""
MOST_SHUFFLED: Final = 200
"""So many rows are enough to see whether a rule can tell right answers from those to other questions."""
_REMEDY: Final = "mend the rule or the rows, since what a held-out row expects must pass"


_A_CLOCK: Final = (
    "is primary and reads response.seconds, which hang on the machine and the batch and not on the adapter: let a rule "
    "that is not primary watch them, such as rules.latency"
)


class NotTestable(Exception):
    """A rule asks how an answer came, which an expected answer cannot tell."""


def _not_testable(what: str) -> property:
    def refuse(_: Response) -> NoReturn:
        raise NotTestable(what)

    return property(refuse)


class ExpectedAnswer(Response):
    """An answer that no model gave: its text is known, and nothing else."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "raw", text)

    tokens, seconds, stopped = map(_not_testable, ("tokens", "seconds", "stopped"))
    thinking, thinking_tokens = map(_not_testable, ("thinking", "thinking_tokens"))

    def __repr__(self) -> str:
        return f"<answer {self.text!r}>"


class EarlyRun(Protocol):
    """What a test of a rule may ask of the run; the fixtures named in `EARLY` are its attributes."""

    @property
    def context(self) -> Context:
        """Where facts are recorded."""
        ...

    def rows_of(self, suite: str | None) -> Rows:
        """Return the held-out rows of a suite; None is `eval_file`."""
        ...


class GoldTests:
    """The tests of an experiment's rules on the expected answers, each made once."""

    def __init__(self, run: EarlyRun) -> None:
        self._run = run
        self._tested: dict[str, SelfTest | None] = {}

    def test_all(self, items: Sequence[pytest.Item]) -> None:
        """Test every rule; those that are broken fail together, so that nothing is trained for them."""
        broken = []
        for name, (_, item) in rules_of(items).items():
            if duplicate(item, items) or per_row_misuse(item):
                continue  # its own test says so
            try:
                self.test(cast("pytest.Function", item))
            except RuleBroken as fault:
                broken.append(f"rule {name!r} {fault}")
                self._run.context.record(("rules", name), {"outcome": "error", "reasons": [str(fault)]})
        if broken:
            pytest.fail("\n".join(broken), pytrace=False)

    def test(self, item: pytest.Function, *, set_up: bool = False) -> SelfTest | None:
        """Test one rule; RuleBroken where it fails an expected answer.

        None where that tells nothing, or where the rule waits for its own set-up, which `set_up` says is there.
        """
        if item.nodeid in self._tested or (waits(item) and not set_up):
            return self._tested.get(item.nodeid)
        rule = rule_of(item)
        try:
            rows = self._run.rows_of(rule.suite)
        except (pytest.fail.Exception, OSError):  # said where the rows are needed
            return None
        asked = set(item._fixtureinfo.argnames).intersection(EARLY)
        early = {} if set_up else {name: getattr(self._run, name) for name in asked}
        found = self._tested[item.nodeid] = tested(item, rule, rows, early)
        if found is not None:
            self._run.context.record(("rules", rule.name), {"self_test": found.as_json()})
        return found


def waits(item: pytest.Function) -> bool:
    """Tell whether a rule needs what is there only at its turn: fixtures or a set-up of its own, or a skip."""
    if any(item.get_closest_marker(name) for name in ("skip", "skipif", "xfail")):
        return True
    there = our_fixtures(item) & {*EARLY, *PER_ROW, *WHOLE, PARAM}
    params = item.callspec.params if hasattr(item, "callspec") else {}
    for name, definitions in item._fixtureinfo.name2fixturedefs.items():
        function = definitions[-1].func
        parameter = name in params and function.__module__.startswith("_pytest.")
        file = getattr(getattr(function, "__code__", None), "co_filename", "")
        of_a_plugin = "site-packages" in file and not name.startswith("_xunit_setup")
        aside = of_a_plugin and name not in item._fixtureinfo.argnames
        if not (name in there or parameter or aside):
            return True
    return False


def tested(
    item: pytest.Function, rule: Rule, rows: Sequence[Row], early: Mapping[str, object]
) -> SelfTest | None:
    """Run a rule on expected answers; None where there are none, RuleBroken where it fails one.

    `early` are the fixtures that are there before the rule's turn.
    """
    if rule.invariant_to or rule.judge:
        return None
    expecting = [row for row in rows if row.expected.strip()]
    try:
        found = (_on_all if rule.corpus else _on_each)(item, expecting, early)
    except NotTestable as asked:
        if rule.primary and str(asked) == "seconds":
            raise RuleBroken(_A_CLOCK) from None
        return SelfTest(Tally(0, 0), Tally(0, 0), str(asked))
    return found if found.gold.total else None


def _on_each(item: pytest.Function, rows: Sequence[Row], early: Mapping[str, object]) -> SelfTest:
    call = caller(item, Confusion(), early)
    right: list[float | None] = []
    wrong: list[float | None] = []
    failures: list[str] = []
    enough = time.monotonic() + SECONDS
    tried = _tried_on_another(rows)
    for row, other in zip(rows, _other_answers([row.expected for row in rows]), strict=True):
        score, message = _given(partial(call, ExpectedAnswer(row.expected), row), row.place)
        right.append(score)
        if score == 0:
            expected = quoted(row.expected, 60)
            failures.append(f"{row.place}: {message}; the expected answer is {expected}")
        if other is not None and row.id in tried:
            wrong.append(_given(partial(call, ExpectedAnswer(other), row), row.place)[0])
        if time.monotonic() > enough:
            break
    found = SelfTest(Tally.of(right), Tally.of(wrong))
    if failures:
        raise RuleBroken(
            f"fails its own gold answer on {len(failures)} of {found.gold.total} rows: {failures[0]}: {_REMEDY}"
        )
    return found


def _on_all(item: pytest.Function, rows: Sequence[Row], early: Mapping[str, object]) -> SelfTest:
    values = set_up_with(item, early)

    def given(texts: Sequence[str]) -> tuple[float | None, str]:
        own = {"responses": [ExpectedAnswer(text) for text in texts], "examples": list(rows)}
        return _given(lambda: called(item, {**values, **own}, Score()), f"{len(rows)} rows together")

    expected = [row.expected for row in rows]
    score, message = given(expected)
    if score == 0:
        raise RuleBroken(f"fails all {len(rows)} gold answers together: {message}: {_REMEDY}")
    others = [other for other in _other_answers(expected) if other is not None]
    return SelfTest(Tally.of([score]), Tally.of([given(others)[0]] if others else []))


def _given(call: Callable[[], float], where: str) -> tuple[float | None, str]:
    """Return the score of one call and why it is what it is; what is wrong with the rule itself names the place."""
    try:
        score, message, _ = outcome(call)
    except (NotTestable, RuleBroken):
        raise
    except Exception as error:
        raise RuleBroken(
            f"fails with {type(error).__name__}: {error} on the gold answer of {where}"
        ) from error
    return score, one_line((message or "it scores 0").splitlines()[0], 160)


def _tried_on_another(rows: Sequence[Row]) -> Collection[str]:
    """Return the rows that are tried on an answer that is not theirs: all, or a draw that is always the same."""
    names = [row.id for row in rows]
    if len(names) <= MOST_SHUFFLED:
        return frozenset(names)
    return frozenset(heapq.nsmallest(MOST_SHUFFLED, names, key=lambda name: sha256_hex(name.encode())))


def _other_answers(expected: Sequence[str]) -> Iterator[str | None]:
    """Yield for each row an answer that another row expects and that differs, None where all rows expect one."""
    different = list(dict.fromkeys(expected))
    place = {text: number for number, text in enumerate(different)}
    others = len(different) - 1
    for number, text in enumerate(expected):
        yield different[(place[text] + 1 + number % others) % len(different)] if others > 0 else None
