"""What is missing makes a decision undecided: never green, and the first reason says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import Decision, decide, judge
from pytest_finetune.judging.evidence import NextChange
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores

ROWS = tuple(f"r{i}" for i in range(40))
WON: Mapping[str, tuple[float | None, ...]] = {"baseline": (0.0,) * 40, "tuned": (1.0,) * 40}
PRIMARY = Rule("priority", primary=True)
GUARD = Rule("polite")


def case(**changes: object) -> Case:
    """Return a case that would be kept, changed in one place."""
    whole = Case(
        rules=(PRIMARY, GUARD),
        scores={"priority": Scores("priority", ROWS, arms=WON), "polite": Scores("polite", ROWS, arms=WON)},
        defaults=DecisionDefaults(),
        answers_differ=True,
        delta_nonzero=True,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def with_scores(name: str, given: Scores | None) -> Case:
    scores = dict(case().scores)
    if given is None:
        del scores[name]
    else:
        scores[name] = given
    return case(scores=scores)


def assert_undecided(decision: Decision, reason: str, change: str) -> None:
    assert decision.reasons[0] == reason
    assert decision.undecided
    assert not decision.keep
    assert decision.verdict == "iterate"
    assert decision.next_change is not None
    assert decision.next_change == NextChange(change, reason)
    assert repr(decision).startswith("iterate (undecided): ")


def test_the_whole_case_is_kept() -> None:
    assert decide(case()).keep


def test_a_problem_of_the_run_decides_nothing() -> None:
    said = "the baseline stage failed in test_drift: the server died after 12 of 40 rows"
    assert_undecided(
        decide(case(problems=(said,))), said, "mend what failed: the baseline stage failed in test_drift"
    )


def test_a_gate_that_a_rule_closed_names_the_rule() -> None:
    said = "the data stage failed in the rules of the experiment: rule 'polite' fails its own gold answer"
    broken = Scores("polite", (), errors=("fails its own gold answer",))
    decision = decide(replace(with_scores("polite", broken), problems=(said,)))
    assert_undecided(decision, said, "mend rule 'polite'")


def test_no_primary_rule() -> None:
    assert_undecided(
        decide(case(rules=(GUARD,))),
        "no rule is primary: mark the one that the decision is about with eval_rule(primary=True)",
        "mark one rule with eval_rule(primary=True)",
    )


def test_two_primary_rules() -> None:
    assert_undecided(
        decide(case(rules=(PRIMARY, Rule("polite", primary=True)))),
        "2 rules are primary ('priority', 'polite'): keep one of the marks",
        "let one of the 2 primary rules be primary",
    )


def test_two_rules_of_one_name() -> None:
    assert_undecided(
        decide(case(rules=(PRIMARY, GUARD, GUARD))),
        "several rules have one name ('polite'): give each its own with name=",
        "rename a rule: several are called 'polite'",
    )


def test_an_arm_that_was_not_asked() -> None:
    assert_undecided(
        decide(case(arms=("baseline",))),
        "the tuned model was not asked: look at what failed before it",
        "look at what failed before it",
    )


def test_answers_that_were_not_compared() -> None:
    assert_undecided(
        decide(case(answers_differ=None)),
        "it is not known whether the tuned answers differ from the base model's: look at what failed before it",
        "look at what failed before it",
    )


def test_a_run_that_asked_no_model_is_told_to_ask_one() -> None:
    unasked = {name: Scores(name, (), executed=False) for name in ("priority", "polite")}
    assert_undecided(
        decide(case(answers_differ=None, scores=unasked)),
        "it is not known whether the tuned answers differ from the base model's: run with --finetune",
        "run with --finetune",
    )


@pytest.mark.parametrize("given", [None, Scores("polite", (), executed=False)])
def test_a_rule_that_was_not_run(given: Scores | None) -> None:
    decision = decide(with_scores("polite", given))
    assert_undecided(
        decision,
        "rule 'polite' was not run: run the whole suite, without -k and without deselecting it",
        "run the whole suite: 1 rule left out",
    )
    assert [verdict.outcome for verdict in decision.rules] == ["passed", "not run"]


def test_a_rule_that_broke() -> None:
    broken = Scores("polite", ROWS, arms=WON, errors=("NameError: name 'jsn' is not defined",))
    decision = decide(with_scores("polite", broken))
    assert_undecided(
        decision,
        "rule 'polite' could not judge (NameError: name 'jsn' is not defined): mend it, run again",
        "mend rule 'polite'",
    )
    assert [verdict.outcome for verdict in decision.rules] == ["passed", "error"]


def test_answers_that_could_not_be_had_are_named_and_never_the_rules_that_lack_them() -> None:
    died, part = "the converter ended with code 1", "answers of tuned@shipped"
    lacking = {name: Scores(name, ROWS, errors=(died,), lacks=part) for name in ("priority", "polite")}
    decision = decide(case(scores=lacking, answers_differ=None))
    assert_undecided(decision, f"{part} failed: {died}", f"mend what failed: {part}")
    assert decision.reasons[1:] == (
        "it is not known whether the tuned answers differ from the base model's: look at what failed before it",
        f"rule 'priority' was not asked: {part} failed",
        f"rule 'polite' was not asked: {part} failed",
    )
    said = "the training stage failed in test_label: the card is full"
    stopped = decide(case(scores=lacking, problems=(said,)))
    assert_undecided(stopped, said, "mend what failed: the training stage failed in test_label")
    assert f"{part} failed: {died}" not in stopped.reasons


def test_missing_answers() -> None:
    one_arm = Scores("priority", ROWS, arms={"baseline": (0.0,) * 40})
    decision = decide(with_scores("priority", one_arm))
    assert_undecided(
        decision,
        "rule 'priority' has no answers of the tuned model: look at what failed while they were asked",
        "get the answers of the tuned model",
    )
    assert [verdict.outcome for verdict in decision.rules] == ["undecided", "passed"]


def test_a_prompt_arm_without_scores_under_the_primary_rule() -> None:
    assert_undecided(
        decide(case(arms=("baseline", "tuned", "prompted"))),
        "rule 'priority' has no answers of the prompt alone: look at what failed while they were asked",
        "get the answers of the prompt alone",
    )


def test_columns_of_different_length() -> None:
    short = Scores("polite", ROWS, arms={"baseline": (0.0,) * 40, "tuned": (1.0,) * 39})
    assert_undecided(
        decide(with_scores("polite", short)),
        "rule 'polite' has not one score for each of its 40 rows in every arm",
        "mend rule 'polite'",
    )


def test_duplicate_row_ids() -> None:
    twice = Scores("polite", ("r1", "r1", *ROWS[2:]), arms=WON)
    assert_undecided(
        decide(with_scores("polite", twice)),
        "rule 'polite' has rows with the same id (r1): give each its own",
        "mend rule 'polite'",
    )


def test_rows_skipped_in_one_arm_only() -> None:
    mixed = Scores("polite", ROWS, arms={"baseline": (None,) + (0.0,) * 39, "tuned": (1.0,) * 40})
    assert_undecided(
        decide(with_scores("polite", mixed)),
        "rule 'polite' skips 1 row in some arms only (r0): skip by the row, not by the answer",
        "mend rule 'polite'",
    )


def test_every_row_skipped() -> None:
    skipped = Scores("polite", ROWS, arms={"baseline": (None,) * 40, "tuned": (None,) * 40})
    assert_undecided(
        decide(with_scores("polite", skipped)),
        "rule 'polite' judged no row: all were skipped",
        "mend rule 'polite'",
    )


def test_no_rows() -> None:
    empty = Scores("polite", (), arms={"baseline": (), "tuned": ()})
    assert_undecided(
        decide(with_scores("polite", empty)),
        "rule 'polite' judged no row: there are none",
        "mend rule 'polite'",
    )


def test_a_guard_that_no_row_passes_in_any_arm() -> None:
    nothing = Scores("polite", ROWS, arms={"baseline": (0.0,) * 40, "tuned": (0.0,) * 40})
    assert_undecided(
        decide(with_scores("polite", nothing)),
        "guard 'polite' passes on no row in any arm, so it cannot guard anything: it may be broken",
        "mend rule 'polite'",
    )


@pytest.mark.parametrize("wrong", [1.5, -0.1, float("nan")])
def test_a_score_outside_its_range(wrong: float) -> None:
    outside = Scores("polite", ROWS, arms={"baseline": (wrong,) + (0.0,) * 39, "tuned": (1.0,) * 40})
    assert_undecided(
        decide(with_scores("polite", outside)),
        f"rule 'polite' gave a score outside 0 to 1: {wrong!r}",
        "mend rule 'polite'",
    )


def test_everything_that_is_missing_is_listed() -> None:
    decision = decide(case(rules=(GUARD,), scores={}, problems=("no adapter",)))
    assert [reason.split(":")[0] for reason in decision.reasons] == [
        "no adapter",
        "no rule is primary",
        "rule 'polite' was not run",
    ]


def test_one_rule_can_be_judged_without_the_others() -> None:
    broken = with_scores("priority", None)
    assert judge(broken, "polite") == decide(case()).rules[1]
    assert judge(broken, "priority").outcome == "not run"


def test_what_could_be_compared_is_still_shown() -> None:
    decision = decide(with_scores("polite", None))
    assert [(one.rule, one.verdict) for one in decision.comparisons] == [("priority", "beats")]
