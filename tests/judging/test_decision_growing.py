"""A decision where rows may be added until a gain is settled: by an e-value, spent once."""

from __future__ import annotations

from dataclasses import replace

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import Decision, decide
from pytest_finetune.judging.growth import Growth
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores

PRIMARY = Rule("priority", primary=True, min_gain=0.1)


def case(fixed: int, broken: int, same: int, growth: Growth | None, looks: int = 1, *more: Rule) -> Case:
    base = (0.0,) * fixed + (1.0,) * broken + (1.0,) * same
    tuned = (1.0,) * fixed + (0.0,) * broken + (1.0,) * same
    rows = tuple(f"r{i}" for i in range(fixed + broken + same))
    arms = {"baseline": base, "tuned": tuned}
    names = ("priority", *(rule.name for rule in more))
    return Case(
        (PRIMARY, *more),
        {name: Scores(name, rows, arms=arms) for name in names},
        DecisionDefaults(),
        looks,
        tuple(arms),
        answers_differ=True,
        delta_nonzero=True,
        growth=growth,
    )


def decision(*given: object) -> Decision:
    return decide(case(*given))  # type: ignore[arg-type]


def test_an_open_question_says_how_much_evidence_there_is_and_how_many_rows_are_needed() -> None:
    found = decision(12, 3, 45, Growth(1, (40,)), 2)
    assert found.verdict == "iterate"
    assert not found.undecided
    assert found.alpha == 0.025, "the looks that only added rows spend nothing"
    assert found.looks == 2
    over_base = found.comparisons[0]
    assert over_base.evidence is not None
    assert over_base.evidence.more is not None
    more = over_base.evidence.more
    assert "not demonstrated at alpha 0.025" in found.reasons[0]
    assert "e = 8.91 after 60 rows; 40 are needed" in found.reasons[0]
    assert found.reasons[-1] == (
        "against the base model e = 8.91 after 60 rows; 40 are needed (alpha 0.025): "
        f"about {more} more rows are needed if the rate stays"
    )
    assert found.examples_needed == 60 + more
    assert found.next_change is not None
    assert found.next_change.change == f"add about {more} rows to the held-out file, behind those that it has"
    assert found.as_json()["growth"] == {"k": 1, "ends": [40], "why": ""}
    assert over_base.as_json()["evidence"]["needed"] == 40  # type: ignore[index]


def test_a_gain_is_kept_by_the_e_value_at_the_look_before_rows_were_added() -> None:
    kept = decision(20, 3, 60, Growth(1, (40, 60)), 3)
    assert kept.keep
    assert "a gain over the base model is demonstrated at alpha 0.025" in kept.reasons[0]
    spent = decision(20, 3, 60, Growth(9, (40, 60)), 11)
    assert not spent.keep
    assert spent.alpha == 0.05 / 90


def test_what_the_fixed_test_would_have_kept_is_not_enough() -> None:
    assert decision(7, 0, 13, None).keep
    assert not decision(7, 0, 13, Growth()).keep
    assert decision(8, 0, 12, Growth()).keep


def test_an_observed_gain_below_what_is_asked_is_no_matter_of_more_rows() -> None:
    found = decision(20, 2, 200, Growth())
    assert not found.keep
    assert "demonstrated at alpha 0.025, but less than 10 points are observed" in found.reasons[0]
    assert "more rows are needed" not in " ".join(found.reasons)


def test_other_claims_pay_for_every_look() -> None:
    bounded = Rule("safe", max_loss=0.15)
    once, often = (
        decision(20, 3, 60, Growth(1, ends), looks, bounded) for ends, looks in (((), 1), ((9,), 40))
    )
    reasons = (
        {rule.name: rule.reasons[0] for rule in once.rules},
        {rule.name: rule.reasons[0] for rule in often.rules},
    )
    assert reasons[0]["safe"] != reasons[1]["safe"], "its bound is wider at a later look"


def test_each_opponent_is_weighed_and_a_look_that_is_another_one_says_why() -> None:
    told = case(12, 3, 45, Growth(2, (), "this is another look: decision.grow was declared later"), 2)
    table = told.scores["priority"]
    arms = {**table.arms, "prompted": table.arms["baseline"]}
    found = decide(replace(told, arms=tuple(arms), scores={"priority": replace(table, arms=arms)}))
    weighed = {one.against: one.evidence for one in found.comparisons}
    assert weighed["baseline"] == weighed["prompted"] is not None
    assert "this is another look: decision.grow was declared later" in found.risks


def test_skipped_rows_are_none_of_those_that_were_added() -> None:
    table = Scores(
        "priority",
        ("a", "b", "c", "d"),
        arms={"baseline": (0.0, None, 0.0, 0.0), "tuned": (1.0, None, 1.0, 1.0)},
    )
    built = Case(
        (PRIMARY,), {"priority": table}, DecisionDefaults(), arms=("baseline", "tuned"), answers_differ=True
    )
    evidence = decide(replace(built, growth=Growth(1, (3,)))).comparisons[0].evidence
    assert evidence is not None
    assert evidence.rows == 3
