"""Keep, iterate or discard: one pure function from scores to a decision that explains itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from pytest_finetune import wording
from pytest_finetune.judging.advice import (
    after_bias,
    after_discard,
    after_iterate,
    rows_needed,
    served_instead,
)
from pytest_finetune.judging.agreement import Checked
from pytest_finetune.judging.case import Case, lacking_of, problems_of, unjudged
from pytest_finetune.judging.comparison import BASE, TUNED, Comparison, Contest, Contests
from pytest_finetune.judging.evidence import NextChange
from pytest_finetune.judging.risks import HIGH, MEDIUM, Risk, Weight, by_weight, risks
from pytest_finetune.judging.rule import Rule, rules_sha256
from pytest_finetune.judging.scores import BLIND, Table, missing, tabulate
from pytest_finetune.judging.slices import lost_guards
from pytest_finetune.judging.statistics.plan import Plan
from pytest_finetune.judging.statistics.power import discordance_after
from pytest_finetune.judging.thresholds import RuleVerdict, judge_rule

if TYPE_CHECKING:
    from pytest_finetune.judging.growth import Growth

_REPR_LENGTH = 200


@dataclass(frozen=True, slots=True, repr=False)
class Decision:
    """The verdict, why, and what to do next; the first reason is the one sentence.

    `instead` names the arm from outside that is to be served, where the adapter lost to one. `growth` says how the rows
    were added, where they may be.
    """

    verdict: str
    reasons: tuple[str, ...]
    undecided: bool = False
    next_change: NextChange | None = None
    examples_needed: int | None = None
    looks: int = 1
    alpha: float | None = None
    comparisons: tuple[Comparison, ...] = ()
    rules: tuple[RuleVerdict, ...] = ()
    rules_sha256: str = ""
    plan_line: str = ""
    weighed: tuple[Risk, ...] = ()
    instead: str | None = None
    growth: Growth | None = None

    @property
    def keep(self) -> bool:
        """Whether the adapter has earned its place."""
        return self.verdict == "keep"

    def advised(self, change: NextChange | None) -> Decision:
        """Return the decision with a diagnosis' next change; none where an arm is kept or served instead."""
        return (
            self
            if change is None or self.keep or self.instead
            else dataclasses.replace(self, next_change=change)
        )

    @property
    def risks(self) -> tuple[str, ...]:
        """What the decision rests on and cannot see, the heaviest first."""
        return tuple(risk.sentence for risk in self.weighed)

    def warned(self, risks: Iterable[str], weight: Weight = MEDIUM) -> Decision:
        """Return the decision with further risks of one weight."""
        further = (Risk(weight, risk) for risk in risks)
        return dataclasses.replace(self, weighed=by_weight((*self.weighed, *further)))

    def explain(self) -> list[str]:
        """Return the verdict, every reason, the next change, the plan and the risks, a line each."""
        lines = [f"{self.word}: {self.reasons[0]}", *(f"  {reason}" for reason in self.reasons[1:])]
        if self.next_change is not None:
            lines.append(f"  next: {self.next_change.change} ({self.next_change.because})")
        if self.plan_line:
            lines.append(f"  this held-out file: {self.plan_line}")
        return lines + [f"  risk ({risk.weight}): {risk.sentence}" for risk in self.weighed]

    @property
    def word(self) -> str:
        """The verdict as it is shown: an undecided result says so."""
        return f"{self.verdict} (undecided)" if self.undecided else self.verdict

    def __repr__(self) -> str:
        text = f"{self.word}: {self.reasons[0]}"
        if self.next_change is None:
            return wording.one_line(text, _REPR_LENGTH)
        tail = f"; next: {wording.one_line(self.next_change.change, 60)}"
        return wording.one_line(text, _REPR_LENGTH - len(tail)) + tail

    def as_json(self) -> dict[str, Any]:
        """Return the record's form of the decision itself; comparisons and rules have places of their own."""
        return {
            "verdict": self.verdict,
            "keep": self.keep,
            "undecided": self.undecided,
            "reasons": list(self.reasons),
            "next_change": None if self.next_change is None else self.next_change.as_json(),
            "examples_needed": self.examples_needed,
            "looks": self.looks,
            "alpha": self.alpha,
            "rules_sha256": self.rules_sha256,
            "plan_line": self.plan_line,
            "risks": list(self.risks),
            "risk_weights": [risk.weight for risk in self.weighed],
            **({} if self.growth is None else {"growth": self.growth.as_json()}),
        }


def decide(case: Case) -> Decision:
    """Judge the tuned arm; whatever is missing makes the result undecided, which is never keep."""
    lacking = {rule.name: tuple(lacking_of(case, rule)) for rule in case.rules}
    tables = {
        rule.name: tabulate(rule, case.scores[rule.name]) for rule in case.rules if not lacking[rule.name]
    }
    contests = {name: _contests(case, table) for name, table in tables.items()}
    verdicts = tuple(_rule_verdict(case, rule, lacking[rule.name], tables, contests) for rule in case.rules)
    problems = (*problems_of(case, lacking), *unjudged(case, lacking))
    undecided = Decision(
        verdict="iterate",
        reasons=tuple(problem.because for problem in problems),
        undecided=True,
        looks=case.looks,
        alpha=case.primaries[0].levels(case.defaults, _look_of_gains(case)).claim if case.primaries else None,
        growth=case.growth,
        comparisons=tuple(
            one.comparison for many in contests.values() for one in many.values() if one.rule.paired
        ),
        rules=verdicts,
        rules_sha256=rules_sha256(case.rules),
    )
    if undecided.reasons:
        return undecided.advised(problems[0])
    return _decided(case, contests, verdicts, undecided)


def judge(case: Case, name: str) -> RuleVerdict:
    """Hold one rule of the case against its own thresholds, without deciding about the adapter."""
    rule = next(rule for rule in case.rules if rule.name == name)
    lacking = tuple(lacking_of(case, rule))
    tables = {} if lacking else {name: tabulate(rule, case.scores[name])}
    contests = {name: _contests(case, table) for name, table in tables.items()}
    return _rule_verdict(case, rule, lacking, tables, contests)


def pairs_of(case: Case) -> Iterator[dict[str, Any]]:
    """Yield each pair without the tuned arm: the first's gain over the second; rules that do not pair rows have none.

    Nothing here decides: no alpha is spent on it and no verdict follows.
    """
    for rule in case.rules:
        scores = case.scores.get(rule.name)
        if scores is None or not rule.paired or any(missing(rule, scores, tuple(scores.arms))):
            continue
        table = tabulate(rule, scores)
        levels = rule.levels(case.defaults, case.looks)
        others = [arm for arm in sorted(table.arms) if arm != TUNED]
        for against, arm in combinations(others, 2):
            met = Contest(table, against, 0.0, levels, ours=arm).comparison
            yield {
                "rule": rule.name,
                "arm": arm,
                "against": against,
                "gain": met.gain,
                "interval": list(met.interval),
                "p_value": met.p_value,
                "fixed": len(met.fixed),
                "broken": len(met.broken),
            }


def _decided(
    case: Case, contests: Mapping[str, Contests], verdicts: Sequence[RuleVerdict], so_far: Decision
) -> Decision:
    met = contests[case.primaries[0].name]
    primary = {arm: contest for arm, contest in met.items() if arm not in case.shown}
    base = primary[BASE]
    against = tuple(_discard_reasons(primary, contests))
    checked = tuple(_checked(case, primary))
    short = tuple(_keep_lacks(case, primary, verdicts, checked))
    # The two exclude each other by their mathematics; were they ever to meet, neither could be trusted.
    assert not (against and not short), f"keep and discard at once: {against}"
    sample = base.gain.claim
    plan = Plan(
        int(sample.effective), base.margin, base.gains_at, case.defaults.power, discordance_after(sample)
    )
    decided = dataclasses.replace(
        so_far,
        undecided=False,
        plan_line=plan.proves,
        weighed=by_weight(risks(case.scores, contests, case.delta_nonzero)),
    )
    if case.drift:
        decided = decided.warned(case.drift.risks(), HIGH if case.drift.measured else MEDIUM)
    if case.growth and case.growth.why:
        decided = decided.warned([case.growth.why])
    if against and TUNED not in case.cut:
        reasons = (*against, *_gained_elsewhere(primary, contests))
        discarded = dataclasses.replace(decided, verdict="discard", reasons=reasons)
        champion = served_instead(primary)
        return dataclasses.replace(
            discarded.advised(after_discard(primary, contests)),
            instead=None if champion is None else champion.against,
        )
    if not short:
        return dataclasses.replace(
            decided, verdict="keep", reasons=tuple(_keep_reasons(primary, verdicts, checked))
        )
    if against:  # what it cannot show, it cannot have lost by
        short = (*short, *(reason for reason in against if reason not in short))
    if set(short) <= {one.sentence for one in checked}:
        return dataclasses.replace(decided, reasons=short).advised(after_bias(short[0]))
    needed = rows_needed(primary, case.defaults.power)
    changed = bool(case.answers_differ) and case.delta_nonzero is not False
    rows = needed.rows + base.gain.n if needed.more and needed.rows is not None else needed.rows
    iterated = dataclasses.replace(decided, reasons=(*short, *needed.sentences), examples_needed=rows)
    advice = next(_cut(case, primary), None) or after_iterate(changed, primary, verdicts, contests, needed)
    return iterated.advised(advice)


def _cut(case: Case, primary: Contests) -> Iterator[NextChange]:
    """Yield what to do about an arm of this decision whose answers were cut before they were given."""
    yield from (change for arm, change in case.cut.items() if arm == TUNED or arm in primary)


def _discard_reasons(primary: Contests, contests: Mapping[str, Contests]) -> Iterator[str]:
    """Yield why the adapter must go: worse, a gain excluded, or a guard lost without a gain."""
    for contest in primary.values():
        against_base = contest.against == BASE
        if contest.many and (contest.excluded or (against_base and contest.worse)):
            yield contest.comparison.sentence
    if not primary[BASE].demonstrated:
        for guard in lost_guards(contests):
            yield f"a guard is lost and {primary[BASE].rule.name} did not gain; {guard.sentence}"


def _gained_elsewhere(primary: Contests, contests: Mapping[str, Contests]) -> Iterator[str]:
    """Yield what a discarded adapter did learn: a better format does not make up for worse answers."""
    for many in contests.values():
        if many[BASE] is not primary[BASE] and many[BASE].rule.paired and many[BASE].demonstrated:
            yield f"what it did gain; {many[BASE].comparison.sentence}"


def _keep_lacks(
    case: Case, primary: Contests, verdicts: Sequence[RuleVerdict], checked: Sequence[Checked]
) -> Iterator[str]:
    """Yield every condition of keep that is not met."""
    yield from (f"{one.because}: {one.change}" for one in _cut(case, primary))
    if not case.answers_differ:
        yield "every tuned answer equals the base model's: the adapter changed nothing"
    if case.delta_nonzero is False:
        yield "the adapter's weights are a zero change: it was not trained, or not saved"
    shown = [contest.comparison.sentence for contest in primary.values() if not contest.beats]
    yield from shown
    yield from (one.sentence for one in checked if not one.holds)
    for verdict in verdicts:
        failed = verdict.reasons[: verdict.failures]
        yield from (f"rule {verdict.name} fails: {reason}" for reason in failed if reason not in shown)


def _checked(case: Case, primary: Contests) -> Iterator[Checked]:
    """Yield what people's labels leave of the gain over each opponent, where the primary rule is a judge."""
    rule = primary[BASE].rule
    if rule.judge:
        yield from (Checked.of(contest, case.scores[rule.name]) for contest in primary.values())


def _keep_reasons(
    primary: Contests, verdicts: Sequence[RuleVerdict], checked: Sequence[Checked]
) -> Iterator[str]:
    yield from (contest.comparison.sentence for contest in primary.values())
    yield from (one.sentence for one in checked)
    yield f"every rule holds: {wording.listed([verdict.name for verdict in verdicts], 12)}"


def _contests(case: Case, table: Table) -> Contests:
    """Set the tuned arm against every other arm that has scores under the rule."""
    rule, defaults = table.rule, case.defaults
    min_gain = rule.min_gain if rule.min_gain is not None else defaults.min_gain if rule.primary else 0.0
    over_prompt = min_gain if defaults.prompt_gain is None else defaults.prompt_gain
    levels = rule.levels(defaults, case.looks)

    def margin(arm: str) -> float:
        if arm == BASE:
            return min_gain
        return case.margins.get(arm, over_prompt) if rule.primary and arm not in case.shown else 0.0

    growing = None
    if case.growth and rule.primary:
        growing = case.growth.growing(rule, defaults, case.scores[rule.name], table)
    return {
        arm: Contest(table, arm, margin(arm), levels, growing=growing) for arm in table.arms if arm != TUNED
    }


def _look_of_gains(case: Case) -> int:
    """Return the look at which the primary rule claims a gain: where rows may be added, the one before they were."""
    return case.looks if case.growth is None else case.growth.k


def _rule_verdict(
    case: Case,
    rule: Rule,
    lacking: Sequence[str],
    tables: Mapping[str, Table],
    contests: Mapping[str, Contests],
) -> RuleVerdict:
    if not lacking:
        verdict = judge_rule(tables[rule.name], contests[rule.name][BASE])
        return verdict.noting(BLIND) if case.scores[rule.name].blind and not rule.primary else verdict
    scores = case.scores.get(rule.name)
    ran = scores is not None and scores.executed
    outcome = "not run" if not ran else "error" if scores is not None and scores.errors else "undecided"
    return RuleVerdict(rule.name, outcome, tuple(lacking))
