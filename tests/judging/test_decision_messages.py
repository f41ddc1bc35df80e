"""What a user reads: every sentence of a decision, a rule, a comparison and a score."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_finetune import wording
from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import Decision, decide
from pytest_finetune.judging.evidence import NextChange
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.score import Score, score_of
from pytest_finetune.judging.scores import Scores
from pytest_finetune.judging.thresholds import RuleVerdict

PRIMARY = Rule("priority", primary=True, min_gain=0.1)
DEFAULTS = DecisionDefaults()


def paired(fixed: int, broken: int, same: int, name: str = "priority") -> Scores:
    n = fixed + broken + same
    base = (0.0,) * fixed + (1.0,) * broken + (1.0,) * same
    tuned = (1.0,) * fixed + (0.0,) * broken + (1.0,) * same
    return Scores(name, tuple(f"r{i}" for i in range(n)), arms={"baseline": base, "tuned": tuned})


def case(given: Scores, *guards: tuple[Rule, Scores], rule: Rule = PRIMARY, looks: int = 1) -> Case:
    return Case(
        rules=(rule, *(guard for guard, _ in guards)),
        scores={given.name: given, **{rule.name: scores for rule, scores in guards}},
        defaults=DEFAULTS,
        looks=looks,
        arms=tuple(given.arms),
        answers_differ=True,
        delta_nonzero=True,
    )


def first_reason(fixed: int, broken: int, same: int, rule: Rule = PRIMARY) -> str:
    return decide(case(paired(fixed, broken, same), rule=rule)).reasons[0]


def test_keep_says_that_a_gain_above_zero_is_demonstrated_and_how_much_was_observed() -> None:
    assert first_reason(40, 4, 56) == (
        "priority: a gain over the base model is demonstrated at alpha 0.025 and at least 10 points are "
        "observed: 96 of 100 rows pass, 60 with the base model, +36.0 points (40 fixed, 4 broken; 95% "
        "interval +23.5 to +47.4; p < 0.0001)"
    )


def test_no_message_says_that_the_asked_gain_itself_is_demonstrated() -> None:
    for counts in ((40, 4, 56), (6, 0, 94), (30, 0, 300), (3, 3, 60)):
        for reason in decide(case(paired(*counts))).reasons:
            assert "gain of 10 points is demonstrated" not in reason
            assert "10 points over the base model is demonstrated" not in reason


def test_without_an_asked_gain_keep_mentions_none() -> None:
    reason = first_reason(40, 4, 56, Rule("priority", primary=True, min_gain=0.0))
    assert reason.startswith(
        "priority: a gain over the base model is demonstrated at alpha 0.025: 96 of 100 rows"
    )


def test_a_demonstrated_gain_that_is_too_small_says_so() -> None:
    assert first_reason(12, 0, 110).startswith(
        "priority: a gain over the base model is demonstrated at alpha 0.025, but less than 10 points "
        "are observed: 122 of 122 rows pass, 110 with the base model, +9.8 points"
    )


def test_an_undemonstrated_gain_says_so() -> None:
    assert first_reason(7, 3, 20).startswith(
        "priority: a gain over the base model is not demonstrated at alpha 0.025: 27 of 30 rows pass, 23 "
        "with the base model, +13.3 points (7 fixed, 3 broken;"
    )


def test_an_excluded_gain_says_how_much_there_can_be() -> None:
    assert first_reason(1, 1, 98).startswith(
        "priority: a gain of 10 points over the base model is excluded, it is at most +4.7: 99 of 100 "
        "rows pass"
    )


def test_a_loss_says_so() -> None:
    assert first_reason(1, 12, 50).startswith(
        "priority: the tuned model is demonstrably worse than the base model: "
    )


def test_keep_lists_what_holds() -> None:
    decision = decide(case(paired(40, 4, 56), (Rule("polite"), paired(1, 1, 98, "polite"))))
    assert decision.reasons[-1] == "every rule holds: priority, polite"


def test_a_guard_prints_the_loss_that_it_could_not_see() -> None:
    decision = decide(case(paired(40, 4, 56), (Rule("polite"), paired(1, 2, 37, "polite"))))
    assert decision.rules[1].reasons == (
        "guard: not demonstrably worse than the base model (1 fixed, 2 broken, p = 0.5 for a loss); a "
        "loss of up to 15.3 points is not excluded",
    )
    assert decision.risks == ("guard polite cannot exclude a loss of up to 15.3 points on 40 rows",)


def test_a_lost_guard_says_so() -> None:
    decision = decide(case(paired(40, 4, 56), (Rule("polite"), paired(0, 9, 31, "polite"))))
    assert decision.reasons[0] == (
        "rule polite fails: guard: demonstrably worse than the base model (0 fixed, 9 broken, p = 0.002 "
        "for a loss)"
    )
    assert decision.next_change is not None
    assert decision.next_change.change == "make rule polite hold: add training rows like those that fail it"
    assert decision.next_change.rows == tuple(f"r{i}" for i in range(9))


def test_a_held_rule_says_with_which_numbers() -> None:
    rule = Rule("strict_json", min_rate=0.95, min_rate_bound=0.9, max_loss=0.05)
    decision = decide(case(paired(40, 4, 56), (rule, paired(90, 0, 10, "strict_json"))))
    assert decision.rules[1].explain() == [
        "rule strict_json: passed",
        "  min_rate: 100 of 100 rows pass (100.0%); 0.95 needs 95",
        "  min_rate_bound: a rate of 90.0% is demonstrated (lower bound 96.4% at alpha 0.025, observed "
        "100.0% of 100 rows)",
        "  max_loss: a loss of 5 points is excluded (lower bound +80.4 points on 100 rows)",
        "  guard: not demonstrably worse than the base model (90 fixed, 0 broken, p = 1 for a loss); a "
        "loss of up to 0.0 points is not excluded",
    ]


def test_graded_thresholds_speak_of_mean_scores() -> None:
    graded = Scores("tone", tuple("abcdefghij"), arms={"baseline": (0.4,) * 10, "tuned": (0.8,) * 10})
    held = decide(case(paired(40, 4, 56), (Rule("tone", min_rate=0.8), graded)))
    missed = decide(case(paired(40, 4, 56), (Rule("tone", min_rate=0.81), graded)))
    assert held.rules[1].reasons == ("min_rate: the mean score is 0.800, at least 0.8",)
    assert missed.rules[1].reasons == ("min_rate: the mean score is 0.800, below 0.81",)


def test_iterate_says_how_many_rows_would_settle_it() -> None:
    decision = decide(case(paired(7, 3, 10)))
    assert decision.examples_needed == 128
    assert decision.reasons[1] == (
        "about 128 fresh held-out rows would settle it against the base model with 80% power, if the "
        "observed gain is the true one"
    )


def test_iterate_says_when_no_number_of_rows_helps() -> None:
    decision = decide(case(paired(14, 6, 55)))
    assert decision.verdict == "iterate"
    assert decision.examples_needed is None
    assert decision.reasons[1] == (
        "no number of rows settles it against the base model: the observed gain, +10.7 points, is "
        "within 2 of the 10 points that are asked for"
    )


def test_iterate_says_when_it_would_take_too_many_rows() -> None:
    decision = decide(case(paired(22, 19, 40), rule=replace(PRIMARY, min_gain=0.06)))
    assert decision.examples_needed is None
    assert (
        decision.reasons[1]
        == "more than 5,000 held-out rows would be needed to settle it against the base model"
    )
    assert decision.next_change is not None
    assert decision.next_change.change == (
        "raise the gain with better training rows; more held-out rows alone do not settle it"
    )


def test_later_looks_and_changed_rules_are_risks() -> None:
    rule = replace(PRIMARY, changed_after_look=True)
    assert decide(case(paired(40, 4, 56), rule=rule, looks=3)).risks == (
        "rule priority was changed after a look at these rows",
        "look 3 on these held-out rows (alpha 0.0042): training rows written from earlier failures on "
        "them are not paid for by any alpha",
    )
    unpaid = replace(case(paired(40, 4, 56)), defaults=DecisionDefaults(spend=False))
    assert decide(unpaid).risks == (
        "looks are not paid for (decision.spend: false): each look makes a false keep more likely",
    )


def test_few_groups_are_a_risk() -> None:
    one = paired(40, 0, 20)
    grouped = Scores("priority", one.rows, tuple(f"g{i % 8}" for i in range(60)), one.arms)
    decision = decide(case(grouped, rule=replace(PRIMARY, cluster="group")))
    assert decision.keep
    assert decision.risks == (
        "priority rests on 8 groups; 20 are recommended",
        "priority gained in most groups, but a few groups that lose much are not excluded",
    )


@pytest.mark.parametrize(
    ("counts", "change"),
    [
        (
            (1, 12, 50),
            "serve the base model, and look at what the training rows taught before training again",
        ),
        (
            (8, 8, 134),
            "serve the base model: fine-tuning on these rows cannot bring the gain that was asked for",
        ),
    ],
)
def test_a_discarded_adapter_is_replaced_by_the_base(counts: tuple[int, int, int], change: str) -> None:
    base = paired(*counts)
    arms = {arm: (*column, *(0.0,) * 30) for arm, column in base.arms.items()}
    lower = Scores("priority", tuple(f"r{i}" for i in range(len(arms["tuned"]))), arms=arms)
    decision = decide(case(lower))
    assert decision.verdict == "discard"
    assert decision.next_change is not None
    assert decision.next_change.change == change
    assert 0 < len(decision.next_change.rows) <= 10


def test_a_discard_for_a_guard_asks_for_rows_that_show_it() -> None:
    decision = decide(case(paired(9, 4, 40), (Rule("polite"), paired(2, 20, 78, "polite"))))
    assert decision.verdict == "discard"
    assert decision.next_change is not None
    assert decision.next_change.change == "add training rows that show what polite checks"


def test_the_repr_is_one_line_with_the_verdict_first_and_the_next_change_last() -> None:
    decision = decide(case(paired(7, 3, 10)))
    assert repr(decision) == (
        "iterate: priority: a gain over the base model is not demonstrated at alpha 0.025: 17 of 20 rows "
        "pass, 13 with the base model, +20.0 points (7...; next: judge on a fresh held-out file of about "
        "128 rows"
    )
    assert str(decision) == repr(decision)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=400), st.text(min_size=1, max_size=400))
def test_the_repr_stays_short_whatever_the_reasons_say(reason: str, change: str) -> None:
    shown = repr(Decision("iterate", (reason,), next_change=NextChange(change, "")))
    assert len(shown) <= 200
    assert len(shown.splitlines()) == 1


def test_explain_tells_everything_in_order() -> None:
    decision = decide(case(paired(7, 3, 10), looks=2))
    lines = decision.explain()
    assert lines[0] == f"iterate: {decision.reasons[0]}"
    assert lines[1] == f"  {decision.reasons[1]}"
    assert lines[2].startswith("  next: judge on a fresh held-out file of about 128 rows (")
    assert lines[3].startswith("  this held-out file: 20 held-out rows can prove a gain of ")
    assert lines[4].startswith("  risk (medium): look 2")


def test_a_diagnosis_takes_the_place_of_the_next_change_unless_the_adapter_is_kept() -> None:
    change = NextChange("lower the learning rate", "the loss is nan")
    iterated, kept = decide(case(paired(7, 3, 10))), decide(case(paired(40, 4, 56)))
    assert iterated.advised(change).next_change == change
    assert iterated.advised(None) is iterated
    assert kept.advised(change).next_change is None
    assert kept.warned(["one label"]).risks == ("one label",)


def test_the_record_holds_what_a_view_needs() -> None:
    decision = decide(case(paired(7, 3, 10)))
    tree = json.loads(json.dumps(decision.as_json()))
    assert set(tree) == {
        "verdict", "keep", "undecided", "reasons", "next_change", "examples_needed", "looks", "alpha",
        "rules_sha256", "plan_line", "risks", "risk_weights",
    }  # fmt: skip
    assert set(tree["next_change"]) == {"change", "because", "rows"}
    comparison = json.loads(json.dumps(decision.comparisons[0].as_json()))
    assert set(comparison) == {
        "rule", "against", "gain", "interval", "p_value", "fixed", "broken", "same", "verdict", "sentence",
    }  # fmt: skip
    assert comparison["fixed"] == [f"r{i}" for i in range(7)]
    assert comparison["same"] == 10
    assert RuleVerdict("x", "failed", ("why",), ("r1",)).as_json() == {
        "outcome": "failed",
        "reasons": ["why"],
        "skipped": ["r1"],
    }


def arms(fixed: int, broken: int, same: int, look: int = 1) -> tuple[Score, Score]:
    scores = paired(fixed, broken, same)
    return tuple(score_of(PRIMARY, scores, arm, DEFAULTS, look) for arm in ("tuned", "baseline"))  # type: ignore[return-value]


def test_a_score_counts_and_shows_its_interval() -> None:
    tuned, _ = arms(28, 0, 22)
    assert (tuned.passed, tuned.total, tuned.rate) == (50, 50, 1.0)
    _, baseline = arms(28, 0, 22)
    assert repr(baseline) == "<baseline priority: 22 of 50, 44.0% (30.0% to 58.7%)>"
    assert baseline.interval.low == pytest.approx(0.2999, abs=1e-4)


def test_a_graded_score_adds_up_its_scores() -> None:
    graded = Scores("tone", ("a", "b"), arms={"tuned": (0.5, 0.75), "baseline": (0.1, 0.2)})
    tuned = score_of(Rule("tone"), graded, "tuned", DEFAULTS)
    assert (tuned.passed, tuned.rate) == (1.25, 0.625)
    assert 0 <= tuned.interval.low < 0.625 < tuned.interval.high <= 1


def test_beats_is_true_and_explains_itself() -> None:
    tuned, baseline = arms(12, 2, 36)
    claim = tuned.beats(baseline, by=0.1)
    assert claim
    assert repr(claim) == "<tuned beats baseline on priority: +20.0 points on 50 rows, p = 0.0065>"
    assert claim.explain() == [
        "tuned beats baseline on priority: +20.0 points on 50 rows, p = 0.0065",
        "  tuned: 48 of 50 (96.0%), baseline: 38 of 50 (76.0%)",
        "  95% interval of the gain: +3.9 to +35.5 points",
        "  look 1, alpha 0.025 (one-sided)",
    ]


def test_beats_is_false_and_says_which_half_fails() -> None:
    tuned, baseline = arms(12, 2, 36)
    too_small = tuned.beats(baseline, by=0.3)
    assert not too_small
    assert repr(too_small) == (
        "<tuned does not beat baseline on priority: +20.0 points on 50 rows, p = 0.0065, demonstrated "
        "above zero but below 30 points>"
    )
    unclear = arms(5, 2, 43)[0].beats(arms(5, 2, 43)[1])
    assert not unclear
    assert repr(unclear) == (
        "<tuned does not beat baseline on priority: +6.0 points on 50 rows, p = 0.23, not demonstrated "
        "at alpha 0.025>"
    )


def test_beats_is_judged_at_the_look_it_was_given() -> None:
    for look, expected in ((1, True), (2, False)):
        tuned, baseline = arms(6, 0, 40, look)
        assert bool(tuned.beats(baseline)) is expected


def test_holds_against_excludes_a_loss_or_says_how_large_it_may_be() -> None:
    tuned, baseline = arms(0, 0, 40)
    assert tuned.holds_against(baseline, margin=0.1)
    short = tuned.holds_against(baseline, margin=0.05)
    assert not short
    assert repr(short) == (
        "<tuned does not hold against baseline on priority: a loss of 5 points is not excluded (lower "
        "bound -8.8 points, n = 40)>"
    )


def test_arms_with_different_rows_are_not_compared() -> None:
    tuned, baseline = arms(12, 2, 36)
    fewer = replace(baseline, rows=baseline.rows[:-1], values=baseline.values[:-1])
    claim = tuned.beats(fewer)
    assert not claim
    assert claim.sentence == ("tuned and baseline cannot be compared on priority: 1 row apart (r49)")
    reordered = replace(baseline, rows=baseline.rows[::-1], values=baseline.values[::-1])
    assert tuned.beats(reordered).sentence == tuned.beats(baseline).sentence


def test_scores_of_different_rules_are_not_compared() -> None:
    tuned, baseline = arms(12, 2, 36)
    with pytest.raises(
        ValueError, match="arms are compared under one rule, not under 'priority' and 'polite'"
    ):
        tuned.beats(replace(baseline, rule="polite"))


def test_a_score_that_is_missing_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="rule 'priority' has no answers of the prompt alone"):
        score_of(PRIMARY, paired(3, 0, 3), "prompted", DEFAULTS)


@settings(deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_a_claims_repr_stays_short(arm: str, rule: str) -> None:
    tuned, baseline = arms(5, 2, 10)
    claim = replace(tuned, arm=arm, rule=rule).beats(replace(baseline, rule=rule))
    assert len(repr(claim)) <= 200
    assert len(repr(claim).splitlines()) <= 1


def test_numbers_are_written_one_way() -> None:
    assert wording.points(-0.0001) == "+0.0 points"
    assert wording.margin(0.07) == "7 points"
    assert wording.p_words(1.0) == "p = 1"
    assert wording.arm("champion") == "the champion"
    assert wording.arm("gpt") == "arm 'gpt'"
    assert wording.one_line("a  b\nc", 10) == "a b c"
