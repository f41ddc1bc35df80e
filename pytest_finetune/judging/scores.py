"""Scores under a rule: what each arm scored on each row, which rows count, and what forbids to judge them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from pytest_finetune import wording
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.judging.statistics.sample import Sample

BLIND = "passes on the answers of other questions as often as on the right ones: it judges a format, not an answer"


class Tally(NamedTuple):
    """What a rule gave on some answers, those that it skipped left out."""

    passed: float
    total: int

    @classmethod
    def of(cls, scores: Sequence[float | None]) -> Tally:
        """Sum the scores up."""
        given = [score for score in scores if score is not None]
        passed = round(sum(given), 12)
        return cls(int(passed) if passed == int(passed) else passed, len(given))

    @property
    def rate(self) -> float:
        """The share that passed, or the mean grade; 0 where every answer was skipped."""
        return self.passed / self.total if self.total else 0.0


class SelfTest(NamedTuple):
    """How a rule did before it judged: on the expected answers, and on those of other rows.

    `reads` names what the rule asks of an answer besides its text: an expected answer has none, so nothing was tested.
    """

    gold: Tally
    shuffled: Tally
    reads: str = ""

    @property
    def blind(self) -> bool:
        """Whether the rule cannot tell the right answers from those to other questions."""
        right, wrong = self.gold, self.shuffled
        return wrong.total > 0 and wrong.passed * right.total >= right.passed * wrong.total

    def as_json(self) -> dict[str, object]:
        """Return the record's form."""
        found: dict[str, object] = {"gold": self.gold._asdict(), "shuffled": self.shuffled._asdict()}
        return {**found, "reads": self.reads} if self.reads else found

    @classmethod
    def of_json(cls, facts: Mapping[str, Any] | None) -> SelfTest | None:
        """Return the self-test of a record; one that has none was not tested."""
        if not facts:
            return None
        return cls(Tally(**facts["gold"]), Tally(**facts["shuffled"]), facts.get("reads", ""))


@dataclass(frozen=True, slots=True)
class Scores:
    """What one rule gave on every held-out row, per arm.

    `arms[name][i]` belongs to `rows[i]`: 1.0 passed, 0.0 failed, a number between for a graded rule,
    None skipped. `noise` holds further runs of the base on the same rows, `contradicted` the rows on which a judge
    contradicted itself, and `labels` what people said of the same answers, by arm and row. `slices` names the rows of
    each slice, where the rule is sliced. `errors` are runtime errors, which decide nothing, or say why the rule was not
    executed; an assertion or exception inside the rule is a failed row and not an error. `lacks` is what the rule was
    to be handed and could not be made: then the error is not the rule's.
    """

    name: str
    rows: tuple[str, ...]
    groups: tuple[str | None, ...] = ()
    arms: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    executed: bool = True
    noise: tuple[tuple[float | None, ...], ...] = ()
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    contradicted: frozenset[str] = frozenset()
    labels: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    self_test: SelfTest | None = None
    lacks: str = ""

    @property
    def reads(self) -> str:
        """What the rule asks of an answer besides its text; empty where that was not seen."""
        return self.self_test.reads if self.self_test is not None else ""

    @property
    def blind(self) -> bool:
        """Whether the rule was found unable to tell right answers from wrong ones."""
        return self.self_test is not None and self.self_test.blind


@dataclass(frozen=True, slots=True)
class Table:
    """The rows that count for one rule: those that no arm skipped."""

    rule: Rule
    rows: tuple[str, ...]
    arms: Mapping[str, tuple[float, ...]]
    groups: tuple[str | None, ...] | None
    noisy: tuple[bool, ...]
    skipped: tuple[str, ...]
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def part(self, rows: Collection[str]) -> Table:
        """Return the table of some of its rows."""
        kept = [i for i, row in enumerate(self.rows) if row in rows]
        return replace(
            self,
            rows=tuple(self.rows[i] for i in kept),
            arms={name: tuple(scores[i] for i in kept) for name, scores in self.arms.items()},
            groups=None if self.groups is None else tuple(self.groups[i] for i in kept),
            noisy=tuple(self.noisy[i] for i in kept),
            slices={},
        )

    def against(self, opponent: str, ours: str = "tuned") -> PairedGain:
        """Pair an arm with an opponent, row by row."""
        return PairedGain.of(self.arms[ours], self.arms[opponent], self.groups, self.noisy)

    def rate(self, arm: str) -> Sample:
        """Return one arm's scores, in their groups: for bounds."""
        return Sample.of(self.arms[arm], self.groups)

    def tally(self, arm: str) -> Sample:
        """Return one arm's scores without their groups: for what was observed."""
        return Sample.of(self.arms[arm])

    def failing(self, arm: str) -> tuple[str, ...]:
        """Return the rows that do not pass in an arm."""
        return tuple(row for row, score in zip(self.rows, self.arms[arm], strict=True) if score < 1)


def tabulate(rule: Rule, scores: Scores) -> Table:
    """Drop the rows that every arm skipped; call `missing` first, which finds what forbids this."""
    kept = _counted(scores)
    counted = set(kept)
    groups = scores.groups or (None,) * len(scores.rows)
    runs = (scores.arms.get("baseline", ()), *scores.noise)
    return Table(
        rule=rule,
        rows=tuple(scores.rows[i] for i in kept),
        arms={name: tuple(float(arm[i] or 0.0) for i in kept) for name, arm in scores.arms.items()},
        groups=tuple(groups[i] for i in kept) if rule.cluster else None,
        noisy=tuple(
            scores.rows[i] in scores.contradicted
            or (bool(scores.noise) and len({run[i] for run in runs}) > 1)
            for i in kept
        ),
        skipped=tuple(row for i, row in enumerate(scores.rows) if i not in counted),
        slices=_counted_slices(scores, kept),
    )


def _counted_slices(scores: Scores, kept: Sequence[int]) -> dict[str, tuple[str, ...]]:
    rows = {scores.rows[i] for i in kept}
    return {name: tuple(row for row in given if row in rows) for name, given in scores.slices.items()}


def missing(rule: Rule, scores: Scores | None, arms: Sequence[str]) -> Iterator[str]:
    """Yield what forbids a decision about a rule: each a sentence that says what is missing."""
    name = repr(rule.name)
    if scores is None or not scores.executed:
        why = scores.errors[:1] if scores is not None else ()
        whole = "run the whole suite, without -k and without deselecting it"
        yield f"rule {name} was not run: {why[0] if why else whole}"
        return
    if scores.lacks:
        yield f"rule {name} was not asked: {scores.lacks} failed"
        return
    if scores.errors:
        yield f"rule {name} could not judge ({wording.listed(scores.errors, 2)}): mend it, run again"
        return
    absent = [wording.arm(arm) for arm in arms if arm not in scores.arms]
    if absent:
        run = "look at what failed while they were asked" if scores.arms else "run with --finetune"
        yield f"rule {name} has no answers of {wording.listed(absent)}: {run}"
        return
    yield from _unusable_rows(rule, scores)


def _unusable_rows(rule: Rule, scores: Scores) -> Iterator[str]:
    name = repr(rule.name)
    columns = [*scores.arms.values(), *scores.noise, *([scores.groups] if scores.groups else [])]
    if any(len(column) != len(scores.rows) for column in columns):
        yield f"rule {name} has not one score for each of its {wording.counted(len(scores.rows), 'row')} in every arm"
        return
    twice = [row for row, count in Counter(scores.rows).items() if count > 1]
    if twice:
        yield f"rule {name} has rows with the same id ({wording.listed(twice)}): give each its own"
        return
    mixed = _mixed_rows(scores)
    if mixed:
        yield (
            f"rule {name} skips {wording.counted(len(mixed), 'row')} in some arms only ({wording.listed(mixed)}): "
            "skip by the row, not by the answer"
        )
        return
    given = [score for arm in scores.arms.values() for score in arm if score is not None]
    if not given:
        yield f"rule {name} judged no row: " + ("all were skipped" if scores.rows else "there are none")
    elif any(not 0 <= score <= 1 for score in given):
        yield f"rule {name} gave a score outside 0 to 1: {next(s for s in given if not 0 <= s <= 1)!r}"
    elif rule.guard and not any(given):
        yield f"guard {name} passes on no row in any arm, so it cannot guard anything: it may be broken"
    elif rule.slice is not None:
        counted = {scores.rows[i] for i in _counted(scores)}
        slices = {key: [row for row in rows if row in counted] for key, rows in scores.slices.items()}
        yield from _slice_problems(rule, slices)


def _slice_problems(rule: Rule, slices: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield what forbids a decision: no row is in any slice, or none is in a protected one."""
    if not any(slices.values()):
        yield f"rule {rule.name!r} is sliced by {rule.slice!r}, which no counted row has"
        return
    known = wording.listed([name for name, rows in sorted(slices.items()) if rows], 8)
    for wanted in rule.protected:
        if not slices.get(wanted):
            yield f"rule {rule.name!r} protects the slice {wanted!r}, which no counted row is in; slices: {known}"


def _mixed_rows(scores: Scores) -> list[str]:
    """Return the rows that some arms skip and others do not."""
    columns = scores.arms.values()
    if not any(None in column for column in columns):
        return []
    rows = zip(scores.rows, *columns, strict=True)
    return [row for row, *given in rows if None in given and any(score is not None for score in given)]


def _counted(scores: Scores) -> Sequence[int]:
    """Return the positions of the rows that no arm skips."""
    columns = scores.arms.values()
    if not any(None in column for column in columns):
        return range(len(scores.rows))
    return [i for i, given in enumerate(zip(*columns, strict=True)) if None not in given]
