"""The verdicts: what is kept, what is discarded, what stays open, and what cannot be decided at all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import Decision, decide
from pytest_finetune.judging.rule import Rule, rules_sha256
from pytest_finetune.judging.scores import Scores
from pytest_finetune.judging.statistics.power import chance_to_beat, chance_to_exclude

Column = Sequence[float | None]
PRIMARY = Rule("priority", primary=True, min_gain=0.1)


def passing(n: int, *ranges: tuple[int, int]) -> list[float]:
    """Return n scores that pass in the given row ranges."""
    return [float(any(low <= i < high for low, high in ranges)) for i in range(n)]


def scores(
    name: str, baseline: Column, tuned: Column, prompted: Column | None = None, **facts: object
) -> Scores:
    arms = {"baseline": tuple(baseline), "tuned": tuple(tuned)}
    if prompted is not None:
        arms["prompted"] = tuple(prompted)
    return Scores(name, tuple(f"r{i}" for i in range(len(baseline))), arms=arms, **facts)  # type: ignore[arg-type]


def judged(
    *judgements: tuple[Rule, Scores],
    defaults: DecisionDefaults | None = None,
    looks: int = 1,
    answers_differ: bool | None = True,
    delta_nonzero: bool | None = True,
    problems: tuple[str, ...] = (),
) -> Decision:
    rules = tuple(rule for rule, _ in judgements)
    prompted = any("prompted" in given.arms for _, given in judgements)
    return decide(
        Case(
            rules=rules,
            scores={given.name: given for _, given in judgements},
            defaults=defaults or DecisionDefaults(),
            looks=looks,
            arms=("baseline", "tuned", *(("prompted",) if prompted else ())),
            answers_differ=answers_differ,
            delta_nonzero=delta_nonzero,
            problems=problems,
        )
    )


def paired(fixed: int, broken: int, same: int, name: str = "priority") -> Scores:
    base = [0.0] * fixed + [1.0] * broken + [1.0] * same
    tuned = [1.0] * fixed + [0.0] * broken + [1.0] * same
    return scores(name, base, tuned)


def outcomes(decision: Decision) -> Mapping[str, str]:
    return {verdict.name: verdict.outcome for verdict in decision.rules}


def test_a_large_demonstrated_gain_is_kept() -> None:
    decision = judged((PRIMARY, paired(40, 4, 56)))
    assert decision.verdict == "keep"
    assert decision.keep
    assert decision.next_change is None
    assert decision.examples_needed is None
    assert decision.alpha == 0.025


def test_a_gain_below_what_was_asked_for_is_not_kept_however_certain() -> None:
    decision = judged((PRIMARY, paired(30, 0, 300)))
    assert decision.comparisons[0].p_value < 1e-8
    assert decision.comparisons[0].gain == pytest.approx(30 / 330)
    assert decision.verdict == "iterate"


def test_a_loss_is_discarded() -> None:
    decision = judged((PRIMARY, paired(2, 20, 78)))
    assert decision.verdict == "discard"
    assert decision.comparisons[0].verdict == "worse"


def test_too_few_rows_discard_nothing() -> None:
    assert judged((PRIMARY, paired(0, 5, 0)), defaults=DecisionDefaults(confidence=0.9)).verdict == "iterate"
    assert judged((PRIMARY, paired(0, 6, 0)), defaults=DecisionDefaults(confidence=0.9)).verdict == "discard"


def test_three_held_out_rows_iterate_and_the_number_that_is_needed_is_given() -> None:
    decision = judged((PRIMARY, paired(2, 0, 1)))
    assert decision.verdict == "iterate"
    assert decision.examples_needed == 17
    assert decision.plan_line.startswith("keep impossible: 3 held-out rows")
    assert decision.next_change is not None
    assert decision.next_change.change == "judge on a fresh held-out file of about 17 rows"


def test_a_base_that_is_already_perfect_is_not_tuned() -> None:
    decision = judged((PRIMARY, paired(0, 0, 36)), answers_differ=True)
    assert decision.verdict == "discard"
    assert decision.next_change is not None
    assert (
        decision.next_change.change == "serve the base model: it is already good at this, prompting is enough"
    )
    assert judged((PRIMARY, paired(0, 0, 35)), answers_differ=True).verdict == "iterate"


def test_a_prompt_that_does_as_well_is_enough() -> None:
    base, tuned = passing(80, (0, 20)), passing(80, (0, 70))
    decision = judged((PRIMARY, scores("priority", base, tuned, prompted=tuned)))
    assert decision.verdict == "discard"
    assert [(one.against, one.verdict) for one in decision.comparisons] == [
        ("baseline", "beats"),
        ("prompted", "excluded"),
    ]
    assert decision.next_change is not None
    assert decision.next_change.change.endswith("prompting is enough")


def test_a_prompt_that_is_neither_beaten_nor_matched_leaves_it_open() -> None:
    base, tuned, prompted = passing(40, (0, 10)), passing(40, (0, 35)), passing(40, (2, 33))
    decision = judged((PRIMARY, scores("priority", base, tuned, prompted)))
    assert decision.verdict == "iterate"
    assert "a gain over the prompt alone is not demonstrated" in decision.reasons[0]


def test_a_gain_over_the_prompt_has_a_margin_of_its_own() -> None:
    base, tuned, prompted = passing(80, (0, 20)), passing(80, (0, 70)), passing(80, (0, 63))
    arms = scores("priority", base, tuned, prompted)
    assert judged((PRIMARY, arms)).verdict == "iterate"
    assert judged((PRIMARY, arms), defaults=DecisionDefaults(prompt_gain=0.05)).verdict == "keep"


def test_the_primary_rule_asks_for_the_default_gain_unless_it_says_more() -> None:
    plain = Rule("priority", primary=True)
    assert judged((plain, paired(8, 0, 92))).keep
    assert not judged((PRIMARY, paired(8, 0, 92))).keep
    assert not judged((plain, paired(8, 0, 92)), defaults=DecisionDefaults(min_gain=0.09)).keep


def test_a_failing_threshold_of_any_rule_forbids_keep() -> None:
    strict = Rule("strict_json", min_rate=0.95)
    ninety_four = judged((PRIMARY, paired(40, 0, 60)), (strict, paired(94, 0, 0, "strict_json")))
    assert ninety_four.keep
    few = scores("strict_json", passing(100), passing(100, (0, 94)))
    decision = judged((PRIMARY, paired(40, 0, 60)), (strict, few))
    assert decision.verdict == "iterate"
    assert (
        decision.reasons[0] == "rule strict_json fails: min_rate: 94 of 100 rows pass (94.0%); 0.95 needs 95"
    )
    assert outcomes(decision) == {"priority": "passed", "strict_json": "failed"}


def test_a_rate_bound_asks_for_more_than_the_rate() -> None:
    arms = scores("strict_json", passing(100), passing(100, (0, 97)))
    held = judged((PRIMARY, paired(40, 0, 60)), (Rule("strict_json", min_rate_bound=0.9), arms))
    short = judged((PRIMARY, paired(40, 0, 60)), (Rule("strict_json", min_rate_bound=0.95), arms))
    assert held.keep
    assert not short.keep
    assert "a rate of 95.0% is not demonstrated (lower bound 91.5% at alpha 0.025" in short.reasons[0]


def test_a_loss_that_cannot_be_excluded_forbids_keep_and_says_how_many_rows_it_takes() -> None:
    rule = Rule("polite", max_loss=0.1)
    open_ = judged((PRIMARY, paired(40, 0, 60)), (rule, paired(0, 0, 35, "polite")))
    held = judged((PRIMARY, paired(40, 0, 60)), (rule, paired(0, 0, 36, "polite")))
    assert not open_.keep
    assert "that takes at least 36 rows, even if nothing breaks" in open_.reasons[0]
    assert held.keep


def test_a_gain_that_a_second_rule_asks_for_must_be_shown_too() -> None:
    rule = Rule("strict_json", min_gain=0.05)
    assert judged((PRIMARY, paired(40, 0, 60)), (rule, paired(10, 0, 90, "strict_json"))).keep
    assert not judged((PRIMARY, paired(40, 0, 60)), (rule, paired(5, 0, 45, "strict_json"))).keep


def test_a_guard_that_is_lost_blocks_keep_but_discards_only_without_a_gain() -> None:
    guard, lost = Rule("polite"), paired(2, 20, 78, "polite")
    task_learned = judged((PRIMARY, paired(40, 0, 60)), (guard, lost))
    nothing_learned = judged((PRIMARY, paired(9, 4, 40)), (guard, lost))
    assert task_learned.verdict == "iterate"
    assert outcomes(task_learned)["polite"] == "failed"
    assert nothing_learned.verdict == "discard"
    assert nothing_learned.reasons[0].startswith(
        "a guard is lost and priority did not gain; polite: the tuned model is"
    )


def test_among_many_guards_one_unlucky_loss_blocks_keep_but_does_not_discard() -> None:
    unlucky = paired(0, 6, 94, "guard0")  # p = .0156: below .025, above .025 / 10
    quiet = tuple((Rule(f"guard{i}"), paired(1, 1, 98, f"guard{i}")) for i in range(1, 10))
    decision = judged((PRIMARY, paired(9, 4, 40)), (Rule("guard0"), unlucky), *quiet)
    assert decision.verdict == "iterate"
    assert outcomes(decision)["guard0"] == "failed"
    assert judged((PRIMARY, paired(9, 4, 40)), (Rule("guard0"), unlucky)).verdict == "discard"


def test_a_rule_with_a_rate_of_its_own_is_not_a_guard() -> None:
    assert not Rule("strict_json", min_rate=0.9).guard
    assert not Rule("priority", primary=True).guard
    assert Rule("polite").guard
    assert Rule("polite", max_loss=0.1).guard


def test_better_format_and_worse_labels_are_not_kept_and_both_are_named() -> None:
    strict = Rule("strict_json", min_gain=0.1)
    decision = judged((PRIMARY, paired(2, 12, 46)), (strict, paired(50, 0, 10, "strict_json")))
    assert decision.verdict == "discard"
    told = "\n".join(reason for verdict in decision.rules for reason in verdict.reasons)
    assert "priority: the tuned model is demonstrably worse than the base model" in told
    assert "strict_json: a gain over the base model is demonstrated" in told


def test_a_great_gain_on_the_rows_of_one_group_is_not_kept() -> None:
    rule = Rule("priority", primary=True, min_gain=0.1, cluster="group")
    groups = tuple(["customer-1"] * 40 + [f"customer-{i}" for i in range(2, 22)])
    one = paired(40, 0, 20)
    clustered = Scores("priority", one.rows, groups, one.arms)
    decision = judged((rule, clustered))
    assert decision.verdict == "iterate"
    assert judged((PRIMARY, one)).keep
    assert "21 groups worth" in decision.reasons[0]


def test_the_same_gain_spread_over_many_groups_is_kept() -> None:
    rule = Rule("priority", primary=True, min_gain=0.1, cluster="group")
    one = paired(40, 0, 20)
    spread = Scores("priority", one.rows, tuple(f"customer-{i % 20}" for i in range(60)), one.arms)
    assert judged((rule, spread)).keep


def test_rows_that_share_groups_without_a_cluster_are_a_risk() -> None:
    one = paired(40, 0, 20)
    grouped = Scores("priority", one.rows, tuple(f"customer-{i % 20}" for i in range(60)), one.arms)
    decision = judged((PRIMARY, grouped))
    assert decision.keep
    assert decision.risks == (
        "priority counts rows of one group as independent: write cluster='group' in its eval_rule",
    )


def test_noisy_rows_are_shown_and_never_counted_as_fixed() -> None:
    base, tuned = passing(60, (0, 30)), passing(60, (0, 40))
    rerun = tuple(passing(60, (0, 38)))
    quiet = judged((PRIMARY, scores("priority", base, tuned)))
    noisy = judged((PRIMARY, scores("priority", base, tuned, noise=(rerun,))))
    assert quiet.keep
    assert not noisy.keep
    assert noisy.comparisons[0].fixed == ("r38", "r39")
    assert noisy.comparisons[0].noisy == tuple(f"r{i}" for i in range(30, 38))
    assert "8 rows noisy, never counted as fixed" in noisy.reasons[0]
    assert "priority differs between runs of the same base on 8 rows" in noisy.risks


def test_graded_rules_are_decided_with_the_bound_and_show_the_sign_flip_beside() -> None:
    small_gains = scores("priority", [0.5] * 19 + [1.0], [0.56] * 19 + [0.0])
    decision = judged((Rule("priority", primary=True, min_gain=0.0), small_gains))
    assert not decision.keep
    comparison = decision.comparisons[0]
    assert comparison.sign_flip_p is not None
    assert comparison.p_value > 0.025
    large = judged((PRIMARY, scores("priority", [0.3] * 40, [0.8] * 40)))
    assert large.keep
    assert "mean score 0.800 on 40 rows, 0.300 with the base model" in large.reasons[0]


def test_identical_answers_are_never_kept() -> None:
    for same in (3, 40, 200):
        assert not judged((PRIMARY, paired(0, 0, same)), answers_differ=False).keep
    odd = judged((PRIMARY, paired(40, 0, 60)), answers_differ=False)
    assert odd.verdict == "iterate"
    assert odd.reasons[0] == "every tuned answer equals the base model's: the adapter changed nothing"


def test_an_adapter_with_a_zero_delta_is_never_kept() -> None:
    decision = judged((PRIMARY, paired(40, 0, 60)), delta_nonzero=False)
    assert decision.verdict == "iterate"
    assert decision.reasons[0] == "the adapter's weights are a zero change: it was not trained, or not saved"
    unknown = judged((PRIMARY, paired(40, 0, 60)), delta_nonzero=None)
    assert unknown.keep
    assert "the adapter's weights were not checked for being a zero change" in unknown.risks


def test_later_looks_ask_for_more_and_brakes_do_not_wear_out() -> None:
    gain, loss = paired(6, 0, 40), paired(0, 6, 40)
    assert judged((PRIMARY, gain), looks=1).keep
    second = judged((PRIMARY, gain), looks=2)
    assert second.verdict == "iterate"
    assert second.alpha == pytest.approx(0.05 / 6)
    assert judged((PRIMARY, gain), looks=2, defaults=DecisionDefaults(spend=False)).keep
    assert judged((PRIMARY, loss), looks=20).verdict == "discard"


def test_a_rules_own_confidence_replaces_the_default() -> None:
    careful = Rule("priority", primary=True, min_gain=0.1, confidence=0.99)
    assert judged((PRIMARY, paired(6, 0, 40))).keep
    decision = judged((careful, paired(6, 0, 40)))
    assert decision.verdict == "iterate"
    assert decision.alpha == pytest.approx(0.005)


def test_rows_that_every_arm_skips_are_dropped_and_listed() -> None:
    base: Column = [None, *passing(60, (0, 20)), None]
    tuned: Column = [None, *passing(60, (0, 50)), None]
    decision = judged((PRIMARY, scores("priority", base, tuned)))
    assert decision.keep
    assert decision.rules[0].skipped == ("r0", "r61")
    assert decision.comparisons[0].same == 30


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60), st.integers(1, 4), st.booleans())
def test_the_verdict_never_gets_worse_when_a_row_gets_better(
    fixed: int, broken: int, same: int, look: int, tie_to_fixed: bool
) -> None:
    if fixed + broken + same == 0 or (tie_to_fixed and not same) or (not tie_to_fixed and not broken):
        return
    order = ["discard", "iterate", "keep"]
    better = (fixed + 1, broken, same - 1) if tie_to_fixed else (fixed, broken - 1, same + 1)
    before, after = (
        judged((Rule("priority", primary=True), paired(*counts)), looks=look)
        for counts in ((fixed, broken, same), better)
    )
    assert order.index(after.verdict) >= order.index(before.verdict)


GRADES = st.one_of(st.sampled_from([0.0, 1.0]), st.integers(0, 10).map(lambda tenth: tenth / 10))
ROWS = st.lists(st.tuples(GRADES, GRADES, GRADES, GRADES, st.integers(0, 9)), min_size=1, max_size=50)


@settings(deadline=None, max_examples=60)
@given(ROWS, st.booleans(), st.booleans(), st.integers(1, 5), st.sampled_from([0.0, 0.05, 0.2]))
def test_any_scores_get_one_verdict_that_contradicts_nothing(
    rows: list[tuple[float, float, float, float, int]], clustered: bool, noisy: bool, look: int, margin: float
) -> None:
    base, tuned, prompted, rerun, groups = zip(*rows, strict=True)
    given_scores = Scores(
        "priority",
        tuple(map(str, range(len(rows)))),
        tuple(map(str, groups)),
        {"baseline": base, "tuned": tuned, "prompted": prompted},
        noise=(rerun,) if noisy else (),
    )
    rule = Rule("priority", primary=True, min_gain=margin, cluster="group" if clustered else None)
    guard = Rule("polite", max_loss=0.3, cluster=rule.cluster)
    decision = judged((rule, given_scores), (guard, replace(given_scores, name="polite")), looks=look)
    assert decision.verdict in {"keep", "iterate", "discard"}
    assert decision.keep is (decision.verdict == "keep")
    assert len(repr(decision)) <= 200
    assert "\n" not in repr(decision)
    assert decision.reasons
    against_base = decision.comparisons[0]
    if decision.keep:
        assert {one.verdict for one in decision.comparisons if one.rule == "priority"} == {"beats"}
        assert against_base.gain >= margin - 1e-9
        assert set(outcomes(decision).values()) == {"passed"}
    if against_base.verdict == "worse":
        assert not decision.keep


def test_the_decision_comes_as_often_as_the_plan_says() -> None:
    """Every outcome of 20 rows at a true gain of 20 points with 30% of rows differing."""
    n, gain, discordance = 20, 0.2, 0.3
    chance = dict.fromkeys(("keep", "iterate", "discard"), 0.0)
    for fixed, broken in itertools.product(range(n + 1), repeat=2):
        if fixed + broken <= n:
            ways = math.comb(n, fixed) * math.comb(n - fixed, broken)
            odds = 0.25**fixed * 0.05**broken * (1 - discordance) ** (n - fixed - broken)
            chance[judged((PRIMARY, paired(fixed, broken, n - fixed - broken))).verdict] += ways * odds
    assert chance["keep"] == pytest.approx(chance_to_beat(n, gain, discordance, 0.1, 0.025), abs=1e-4)
    assert chance["discard"] == pytest.approx(chance_to_exclude(n, gain, discordance, 0.1, 0.025), abs=1e-4)


def test_ten_thousand_rows_under_ten_rules_are_decided_quickly() -> None:
    from time import process_time

    n = 10_000
    base, tuned = passing(n, (0, 6000)), passing(n, (200, 6900))
    rules = tuple(Rule(f"rule{i}", primary=i == 0) for i in range(10))
    judgements = [(rule, scores(rule.name, base, tuned, base)) for rule in rules]
    started = process_time()
    decision = judged(*judgements)
    assert process_time() - started < 2.5  # about 0.3 s; the limit allows for a slow machine
    assert decision.keep


def test_rules_have_one_digest_whatever_their_order_and_another_for_any_change() -> None:
    one, two = Rule("a", primary=True, sha256="1"), Rule("b", min_rate=0.9, sha256="2")
    digest = rules_sha256([one, two])
    assert rules_sha256([two, one]) == digest
    assert rules_sha256([one]) != digest
    for changed in (
        Rule("b", min_rate=0.91, sha256="2"),
        Rule("b", min_rate=0.9, sha256="3"),
        Rule("b", min_rate=0.9, sha256="2", suite="general"),
        Rule("b", min_rate=0.9, sha256="2", cluster="group"),
        Rule("b", min_rate=0.9, sha256="2", confidence=0.9),
    ):
        assert rules_sha256([one, changed]) != digest


@pytest.mark.parametrize("threshold", ["min_rate", "min_rate_bound", "min_gain", "max_loss"])
def test_a_threshold_that_is_no_share_is_refused(threshold: str) -> None:
    with pytest.raises(ValueError, match=rf"rule 'x': {threshold}=95 is not a share between 0 and 1"):
        Rule("x", **{threshold: 95})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rule 'x': confidence=0.5 does not lie between 0.5 and 1"):
        Rule("x", confidence=0.5)
