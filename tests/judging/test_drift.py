"""Drift as numbers: what changed, how far, whether other instructions get the task's answer, and what is said of it."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pytest_finetune.judging.drift import ERROR, NOT_POSSIBLE, Drift, DriftRow, NotMeasured
from pytest_finetune.judging.statistics.exact import mcnemar_p

TASK = '{"priority":"low"}'


def row(
    number: int, tuned: str = "Lisbon", *, kl: float | None = 0.0, tokens: int = 2, base: str = "Lisbon"
) -> DriftRow:
    like = (base == TASK, tuned == TASK)
    return DriftRow(f"p{number}", f"question {number}", base, tuned, tokens, kl, *like)


def drift(*rows: DriftRow, **more: object) -> Drift:
    return Drift(rows, told_by="contract", **more)  # type: ignore[arg-type]


def leaking(count: int, total: int = 40) -> Drift:
    return drift(*(row(number, TASK if number < count else "Lisbon") for number in range(total)))


def test_nothing_moved() -> None:
    still = drift(*(row(number) for number in range(40)))
    assert (still.changed, still.mean_kl, still.max_kl) == (0.0, 0.0, 0.0)
    assert still.interval == pytest.approx((0, 0.0881), abs=1e-4)  # 1 - 0.025 ** (1 / 40)
    assert still.furthest == ()
    assert not still.forgets
    assert list(still.risks()) == []


def test_the_mean_is_over_tokens_and_the_largest_over_answers() -> None:
    found = drift(
        row(0, "Rome", kl=0.5, tokens=6), row(1, "Oslo", kl=2.0, tokens=2), row(2, kl=None, tokens=0)
    )
    assert found.mean_kl == pytest.approx((0.5 * 6 + 2.0 * 2) / 8)
    assert found.max_kl == 2.0
    assert found.changed == pytest.approx(2 / 3)
    assert [one.id for one in found.furthest] == ["p1", "p0"]


@pytest.mark.parametrize(("count", "forgets"), [(0, False), (5, False), (6, True), (40, True)])
def test_forgetting_is_a_demonstrated_rise_of_answers_in_the_tasks_format(count: int, forgets: bool) -> None:
    found = leaking(count)
    assert bool(found.forgets) is forgets
    assert forgets is (mcnemar_p(count, 0) <= 0.025)
    assert bool(list(found.risks())) is forgets


def test_a_base_that_answers_so_itself_has_nothing_to_forget() -> None:
    found = drift(*(row(number, TASK, base=TASK) for number in range(40)))
    assert not found.forgets
    assert found.changed == 0.0


def test_the_confidence_of_the_experiment_is_the_level() -> None:
    rows = leaking(6).rows
    assert drift(*rows, confidence=0.95).forgets
    assert not drift(*rows, confidence=0.99).forgets


def test_the_risk_names_the_counts_of_both_models() -> None:
    assert list(leaking(38).risks()) == [
        "forgetting: 38 of 40 neutral prompts are answered in the task's format (told by the contract), "
        "0 by the base, p < 0.0001"
    ]


def test_a_number_that_fails_an_assertion_explains_itself() -> None:
    found = drift(row(0, TASK, kl=2.5, base="The capital of Portugal\nis Lisbon"), row(1))
    assert found.mean_kl.explain("<=", 0.5) == [
        "the mean token KL from the base is 1.25, not <= 0.5",
        "  1 of 2 neutral answers changed (95% interval 1.3% to 98.7%), 1 in the task's format, 0 by the base",
        "  p0 (KL 2.5): 'The capital of Portugal is Lisbon' -> '{\"priority\":\"low\"}'",
        "  to do: replay the base's own answers (training.replay), add rows with other instructions, or train less "
        "(training.learning_rate, training.num_train_epochs)",
    ]
    assert found.changed.explain("<", 0.25)[0] == "the share of changed answers is 0.5, not < 0.25"


def test_without_probabilities_the_texts_remain() -> None:
    found = drift(
        row(0, "Rome", kl=None), row(1, kl=None), kl_reason="the runtime 'prod' gives no probabilities"
    )
    assert found.changed == 0.5
    with pytest.raises(NotMeasured, match="no token KL: the runtime 'prod' gives no probabilities; assert"):
        _ = found.mean_kl
    facts = found.facts()
    assert (facts["mean_kl"], facts["max_kl"], facts["tokens"]) == (None, None, None)
    assert facts["kl_reason"] == "the runtime 'prod' gives no probabilities"


def test_what_was_not_measured_has_no_number_and_only_an_error_is_a_risk() -> None:
    for outcome, risks in ((ERROR, 1), (NOT_POSSIBLE, 0)):
        found = Drift(outcome=outcome, reason="the server is gone")
        assert len(list(found.risks())) == risks
        assert repr(found) == "<drift was not measured: the server is gone>"
        for name in ("changed", "interval", "mean_kl", "max_kl", "forgets"):
            with pytest.raises(NotMeasured, match="drift was not measured: the server is gone"):
                getattr(found, name)
        assert found.facts()["answers_changed"] is None


@pytest.mark.parametrize(
    "found", [leaking(7), drift(row(0, "Rome", kl=0.25), row(1)), Drift(outcome=ERROR, reason="x")]
)
def test_a_record_holds_all_of_it(found: Drift) -> None:
    facts = json.loads(json.dumps(found.facts()))
    assert Drift.read(facts, 0.95) == found
    assert Drift.read(None, 0.95) is None


def test_the_numbers_follow_from_the_rows() -> None:
    found = leaking(7)
    facts = found.facts()
    assert facts["answers_changed"] == 7
    assert facts["like_task"] == {"base": 0, "tuned": 7, "p_value": 2**-7}
    other = dataclasses.replace(found, rows=found.rows[1:])
    assert other.facts()["like_task"] == {"base": 0, "tuned": 6, "p_value": 2**-6}
