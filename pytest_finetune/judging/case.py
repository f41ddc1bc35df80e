"""What a decision rests on, and what forbids one: each thing that is missing, with what to do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_finetune import wording
from pytest_finetune.judging.agreement import unchecked
from pytest_finetune.judging.comparison import BASE, TUNED
from pytest_finetune.judging.evidence import NextChange
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores, missing

if TYPE_CHECKING:
    from pytest_finetune.experiment import DecisionDefaults
    from pytest_finetune.judging.drift import Drift
    from pytest_finetune.judging.growth import Growth


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that a decision rests on.

    `looks` counts this look: 1 at the first. `arms` names every arm that was asked; those besides the
    base and the tuned one are opponents that must be beaten as well, by their own of `margins` where they
    have one, except those in `shown`, which are only compared. `problems` are reasons why nothing can be
    decided. `cut` says of an arm, the tuned one included, that the token limit came before its answers did: it shows
    neither that it was beaten nor that it failed. `drift` changes no verdict; what it shows is a risk. `growth` says
    how the rows were added, where the primary rule claims a gain by an e-value.
    """

    rules: tuple[Rule, ...]
    scores: Mapping[str, Scores]
    defaults: DecisionDefaults
    looks: int = 1
    arms: tuple[str, ...] = (BASE, TUNED)
    shown: tuple[str, ...] = ()
    margins: Mapping[str, float] = dataclasses.field(default_factory=dict)
    answers_differ: bool | None = None
    delta_nonzero: bool | None = None
    problems: tuple[str, ...] = ()
    cut: Mapping[str, NextChange] = dataclasses.field(default_factory=dict)
    drift: Drift | None = None
    growth: Growth | None = None

    @property
    def opponents(self) -> tuple[str, ...]:
        """The arms besides the base that the tuned arm must beat."""
        return tuple(arm for arm in self.arms if arm not in {BASE, TUNED, *self.shown})

    @property
    def primaries(self) -> tuple[Rule, ...]:
        """The rules marked as primary; a decision needs exactly one."""
        return tuple(rule for rule in self.rules if rule.primary)


def problems_of(case: Case, lacking: Mapping[str, Sequence[str]]) -> Iterator[NextChange]:
    """Yield what forbids any decision, besides what is missing from a rule, and what to do about it."""
    for problem in case.problems:
        named = [name for name in lacking if _broke(case.scores.get(name)) and f"rule {name!r}" in problem]
        place = problem.partition(": ")[0]
        yield NextChange(f"mend rule {named[0]!r}" if named else f"mend what failed: {place}", problem)
    primaries = [repr(rule.name) for rule in case.primaries]
    if not primaries:
        said = "no rule is primary: mark the one that the decision is about with eval_rule(primary=True)"
        yield NextChange("mark one rule with eval_rule(primary=True)", said)
    elif len(primaries) > 1:
        said = f"{len(primaries)} rules are primary ({wording.listed(primaries)}): keep one of the marks"
        yield NextChange(f"let one of the {len(primaries)} primary rules be primary", said)
    twice = sorted({repr(rule.name) for rule in case.rules if _count(case, rule.name) > 1})
    if twice:
        said = f"several rules have one name ({wording.listed(twice)}): give each its own with name="
        yield NextChange(f"rename a rule: several are called {twice[0]}", said)
    yield from _unmade(case)
    asked = any(scores.arms or scores.lacks for scores in case.scores.values())
    run = "look at what failed before it" if asked else "run with --finetune"
    absent = [wording.arm(arm) for arm in (BASE, TUNED) if arm not in case.arms]
    if absent:
        yield NextChange(run, f"{wording.listed(absent)} was not asked: {run}")
    if case.answers_differ is None and not absent:
        said = "it is not known whether the tuned answers differ from the base model's"
        yield NextChange(run, f"{said}: {run}")


def _unmade(case: Case) -> Iterator[NextChange]:
    """Yield what rules were to be handed and could not be made, unless it is told already why the run stopped."""
    if case.problems:
        return
    failed = {scores.lacks: scores.errors[0] for scores in case.scores.values() if scores.lacks}
    for part, because in failed.items():
        yield NextChange(f"mend what failed: {part}", f"{part} failed: {because}")


def unjudged(case: Case, lacking: Mapping[str, Sequence[str]]) -> Iterator[NextChange]:
    """Yield what is missing from each rule, and what to do about it."""
    left_out = [name for name in lacking if lacking[name] and _left_out(case.scores.get(name))]
    for rule in case.rules:
        change = f"mend rule {rule.name!r}"
        scores = case.scores.get(rule.name)
        if scores is not None and scores.lacks:
            change = f"mend what failed: {scores.lacks}"
        elif rule.name in left_out:
            change = f"run the whole suite: {wording.counted(len(left_out), 'rule')} left out"
        elif scores is not None and scores.executed and not scores.errors:
            absent = [wording.arm(arm) for arm in _asked(case, rule) if arm not in scores.arms]
            change = f"get the answers of {wording.listed(absent)}" if absent else change
            if not any(missing(rule, scores, _asked(case, rule))):
                change = "let people label answers of each arm, to check the judge"
        yield from (NextChange(change, problem) for problem in lacking[rule.name])


def _broke(scores: Scores | None) -> bool:
    return scores is not None and bool(scores.errors)


def _left_out(scores: Scores | None) -> bool:
    return scores is None or not (scores.executed or _broke(scores))


def _count(case: Case, name: str) -> int:
    return sum(rule.name == name for rule in case.rules)


def lacking_of(case: Case, rule: Rule) -> Iterator[str]:
    """Yield what forbids judging one rule: scores, answers, or people's labels of a judge's verdicts."""
    scores = case.scores.get(rule.name)
    found = tuple(missing(rule, scores, _asked(case, rule)))
    yield from found
    if rule.primary and rule.judge and scores is not None and not found:
        yield from unchecked(rule.name, scores, rule.labels, (BASE, *case.opponents, TUNED))


def _asked(case: Case, rule: Rule) -> tuple[str, ...]:
    return (BASE, TUNED, *case.opponents, *case.shown) if rule.primary else (BASE, TUNED)
