"""Risks are weighed: the heaviest first, each with its weight in the record and its word in every view."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_finetune.experiment import DecisionDefaults
from pytest_finetune.judging.case import Case
from pytest_finetune.judging.decision import Decision, decide
from pytest_finetune.judging.drift import Drift, DriftRow
from pytest_finetune.judging.risks import HIGH, LOW, MEDIUM, Risk, by_weight
from pytest_finetune.judging.rule import Rule
from pytest_finetune.judging.scores import Scores, SelfTest, Tally

ROWS = tuple(f"r{i}" for i in range(40))
WON = {"baseline": (0.0,) * 40, "tuned": (1.0,) * 40}
KEPT = Case(
    rules=(Rule("priority", primary=True),),
    scores={"priority": Scores("priority", ROWS, arms=WON)},
    defaults=DecisionDefaults(),
    answers_differ=True,
    delta_nonzero=True,
)
TIED = {"baseline": (0.0,) * 8 + (1.0,) * 32, "tuned": (1.0,) * 32 + (0.0,) * 8}
SKIPPING = {arm: (None,) * 4 + scores[4:] for arm, scores in WON.items()}
NOT_TESTED = SelfTest(Tally(0, 0), Tally(0, 0), "tokens")
FORGOTTEN = Drift(
    tuple(DriftRow(f"n{i}", "hello", "hello", "{}", tuned_like_task=True) for i in range(40)),
    told_by="contract",
)
GUARDED = {
    "rules": (Rule("priority", primary=True), Rule("polite")),
    "scores": {**KEPT.scores, "polite": Scores("polite", ROWS, arms=TIED)},
}


@pytest.mark.parametrize(
    ("changes", "weight", "said"),
    [
        ({"drift": FORGOTTEN}, HIGH, "forgetting: 40 of 40 neutral prompts"),
        ({"defaults": DecisionDefaults(spend=False)}, HIGH, "looks are not paid for"),
        (
            {"rules": (Rule("priority", primary=True, changed_after_look=True),)},
            HIGH,
            "was changed after a look",
        ),
        (
            {"scores": {"priority": Scores("priority", ROWS, ("g",) * 40, WON)}},
            HIGH,
            "counts rows of one group as independent",
        ),
        (
            {"scores": {"priority": replace(KEPT.scores["priority"], self_test=NOT_TESTED)}},
            HIGH,
            "reads response.tokens, which no expected answer has: it was not tested",
        ),
        (
            {"scores": {"priority": Scores("priority", ROWS, arms=SKIPPING)}},
            HIGH,
            "rule 'priority' leaves out 4 of 40 rows (pytest.skip): it says nothing about those",
        ),
        (
            {"defaults": DecisionDefaults(confidence=0.6)},
            HIGH,
            "priority is decided at a confidence of 60%: without any gain it claims one in up to 20.0% of runs",
        ),
        ({"looks": 2}, MEDIUM, "look 2 on these held-out rows"),
        ({"delta_nonzero": None}, MEDIUM, "were not checked for being a zero change"),
        (
            {"scores": {"priority": Scores("priority", ROWS, arms=WON, noise=((1.0,) * 3 + (0.0,) * 37,))}},
            MEDIUM,
            "differs between runs of the same base on 3 rows",
        ),
        ({"drift": Drift(outcome="error", reason="no memory")}, MEDIUM, "was not measured: no memory"),
        (GUARDED, LOW, "guard polite cannot exclude a loss"),
    ],
)
def test_every_risk_beside_a_keep_has_its_weight(changes: dict[str, object], weight: str, said: str) -> None:
    decision = decide(replace(KEPT, **changes))  # type: ignore[arg-type]
    assert decision.keep
    (found,) = decision.weighed
    assert found.weight == weight
    assert said in found.sentence


def test_the_heaviest_risk_comes_first_whenever_it_was_found() -> None:
    light, heavy, middling = Risk(LOW, "a"), Risk(HIGH, "b"), Risk(MEDIUM, "c")
    assert by_weight([light, middling, heavy, Risk(HIGH, "d")]) == (heavy, Risk(HIGH, "d"), middling, light)
    decision = Decision("keep", ("it won",)).warned(["one"], LOW).warned(["two"], HIGH).warned(["three"])
    assert decision.risks == ("two", "three", "one")
    assert decision.as_json()["risks"] == ["two", "three", "one"]
    assert decision.as_json()["risk_weights"] == ["high", "medium", "low"]
    assert decision.explain()[1:] == ["  risk (high): two", "  risk (medium): three", "  risk (low): one"]
