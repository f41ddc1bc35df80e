"""A judge is believed as far as people's labels bound its bias, and not at all before."""

from __future__ import annotations

import random
from collections.abc import Mapping
from math import comb

import pytest

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.agreement import Agreement
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import Decision, decide
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores

KIND = Rule("kind", primary=True, min_gain=0.1, judge=True)
ROWS = tuple(f"r{i}" for i in range(200))
Labels = Mapping[str, Mapping[str, bool]]


def decided(baseline: list[float], tuned: list[float], labels: Labels, rule: Rule = KIND) -> Decision:
    arms = {"baseline": tuple(baseline), "tuned": tuple(tuned)}
    given = Scores("kind", ROWS, arms=arms, labels=labels)
    return decide(Case((rule,), {"kind": given}, DecisionDefaults(), answers_differ=True, delta_nonzero=True))


def right(count: int) -> list[float]:
    return [float(i < count) for i in range(200)]


def agreeing(column: list[float], labelled: int) -> dict[str, bool]:
    """Return labels that a judge agrees with, spread over the rows."""
    step = 200 // labelled
    return {ROWS[i]: bool(column[i]) for i in range(0, labelled * step, step)}


@pytest.mark.parametrize(
    ("base", "tuned", "said", "wanted"),
    [
        (0, 0, "nobody has checked it", "the base model, the tuned model"),
        (40, 10, "it was checked on 10 answers of the tuned model only", "the tuned model"),
    ],
)
def test_a_judge_is_undecided_until_people_have_labelled_answers_of_both_arms(
    base: int, tuned: int, said: str, wanted: str
) -> None:
    columns = right(20), right(190)
    counts = {"baseline": base, "tuned": tuned}
    labels = {
        arm: agreeing(column, n) if n else {}
        for (arm, n), column in zip(counts.items(), columns, strict=True)
    }
    decision = decided(*columns, labels)
    assert decision.undecided
    assert not decision.keep
    assert decision.reasons == (
        f"rule 'kind' is a judge: {said}; label at least 20 answers of each ({wanted}) in "
        "eval/judge_labels.jsonl: judge_labels/ beside the record has a file to fill in",
    )


def test_a_judge_that_people_agree_with_may_keep_and_says_so() -> None:
    base, tuned = right(20), right(190)
    decision = decided(base, tuned, {"baseline": agreeing(base, 50), "tuned": agreeing(tuned, 50)})
    assert decision.keep
    assert (
        "kind is a judge: it agrees with people on 100.0% of 50 answers of the base model and gives them +0.0 points "
        "too much (-9.7 to +9.7), it agrees with people on 100.0% of 50 answers of the tuned model"
    ) in decision.reasons[1]
    assert "so that a gain is left" in decision.reasons[1]


def test_a_gain_that_is_the_judges_bias_is_not_kept() -> None:
    """By people's labels both arms are right on 60%; the judge passes 30 points more of the tuned answers."""
    base, tuned = right(120), right(180)
    labels = {
        "baseline": agreeing(base, 100),
        "tuned": {row: int(row[1:]) < 120 for row in ROWS[::2]},
    }
    decision = decided(base, tuned, labels)
    assert decision.comparisons[0].verdict == "beats"
    assert decision.verdict == "iterate"
    assert "gives them +30.0 points too much" in decision.reasons[0]
    assert "so that a gain need not be left" in decision.reasons[0]


def test_a_gain_over_every_opponent_must_be_left_by_the_labels_of_its_own_answers() -> None:
    """The prompt is right as often as the tuned model, and the judge passes a tenth fewer of its answers."""
    columns = {"baseline": right(20), "tuned": right(190), "prompted": right(150)}
    people = {arm: agreeing(column, 100) for arm, column in columns.items()}

    def verdict(labels: Labels) -> Decision:
        arms = {arm: tuple(column) for arm, column in columns.items()}
        given = Scores("kind", ROWS, arms=arms, labels=labels)
        asked = ("baseline", "tuned", "prompted")
        case = Case((KIND,), {"kind": given}, DecisionDefaults(), arms=asked, answers_differ=True)
        return decide(case)

    missing = verdict({arm: people[arm] for arm in ("baseline", "tuned")})
    assert missing.undecided
    assert "label at least 20 answers of each (the prompt alone) in" in missing.reasons[0]
    kept = verdict(people)
    assert kept.keep
    assert sum("is a judge" in reason for reason in kept.reasons) == 2
    stern = verdict({**people, "prompted": {row: int(row[1:]) < 190 for row in people["prompted"]}})
    assert not stern.keep
    assert [reason for reason in stern.reasons if "need not be left" in reason] == [stern.reasons[0]]
    assert "answers of the prompt alone and gives them -20.0 points too much" in stern.reasons[0]


def test_a_rule_that_is_no_judge_asks_for_no_labels() -> None:
    assert decided(right(20), right(190), {}, Rule("kind", primary=True, min_gain=0.1)).keep


def test_rows_that_the_judge_skipped_or_nobody_labelled_tell_nothing() -> None:
    given = Scores(
        "kind", ("a", "b", "c"), arms={"tuned": (1.0, None, 0.75)}, labels={"tuned": {"a": True, "b": True}}
    )
    found = Agreement.of(given, "tuned")
    assert (found.n, found.agreed.mean, found.bias.mean) == (1, 1.0, 0.0)
    assert Agreement.of(given, "baseline").as_json(0.025) == {"labels": 0}


def test_labels_of_one_group_count_together() -> None:
    rows = tuple(map(str, range(40)))
    labels = {"tuned": dict.fromkeys(rows, True)}
    given = Scores(
        "kind", rows, tuple(str(int(row) // 4) for row in rows), {"tuned": (1.0,) * 40}, labels=labels
    )
    alone, together = (Agreement.of(given, "tuned", clustered=clustered) for clustered in (False, True))
    assert together.interval(0.025).low == pytest.approx(0.025 ** (1 / 10))
    assert alone.interval(0.025).low == pytest.approx(0.025 ** (1 / 40))


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95])
def test_the_bounds_of_agreement_hold_by_enumeration(rate: float) -> None:
    missed = 0.0
    for agreed in range(26):
        rows = tuple(map(str, range(25)))
        scores = tuple(float(i < agreed) for i in range(25))
        labels = {"tuned": dict.fromkeys(rows, True)}
        interval = Agreement.of(
            Scores("kind", rows, arms={"tuned": scores}, labels=labels), "tuned"
        ).interval(0.05)
        chance = comb(25, agreed) * rate**agreed * (1 - rate) ** (25 - agreed)
        missed += chance * (rate < interval.low)
        assert interval.low <= agreed / 25 <= interval.high
    assert missed <= 0.05


def test_a_biased_judge_without_a_gain_is_kept_less_often_than_promised() -> None:
    """People see no difference; the judge passes a wrong tuned answer in a quarter of the cases, a base one never."""
    draw, kept = random.Random(7), 0
    for _ in range(60):
        true = [float(draw.random() < 0.5) for _ in ROWS]
        tuned = [1.0 if draw.random() < 0.25 else score for score in true]
        asked = draw.sample(range(200), 60)
        people = {ROWS[i]: bool(true[i]) for i in asked}
        decision = decided(true, tuned, {"baseline": people, "tuned": people})
        kept += decision.keep
        assert decision.comparisons[0].verdict in {"beats", "not demonstrated"}
    assert kept == 0
