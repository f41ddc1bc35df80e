"""Rows that are added for an adapter that stays: asked once, one look, and a decision by an e-value."""

from __future__ import annotations

from pytest_finetune.suite.run import ExperimentRun

from .conftest import World, rows
from .test_run import judge

GROW = "decision: {grow: true, min_gain: 0.1}\n"


def test_rows_are_added_until_a_gain_is_settled(world: World) -> None:
    judge_on(world, 8, right=7)
    assert world.asked() == ["train", "answer tuned", "answer base"]
    run = judge_on(world, 12, right=11, look=2)
    assert world.asked() == ["answer tuned", "answer base"]
    assert [len(run.answers(arm)) for arm in ("tuned", "baseline")] == [12, 12]
    facts = run.context.facts.tree()["looks"]
    assert (facts["k"], facts["growth"]) == (2, {"k": 1, "ends": [8], "why": ""})
    again = judge_on(world, 12, right=11, look=2)
    assert again.context.facts.tree()["looks"] == facts
    decision = again.decision()
    assert decision.keep
    assert decision.alpha == 0.025
    assert "after 12 rows; 40 are needed" in decision.reasons[0]


def test_only_the_rows_that_were_added_are_asked(world: World) -> None:
    judge_on(world, 8, right=4)
    world.base_says = "other prose"
    run = judge_on(world, 12, right=6, look=2)
    said = [answer.response for answer in run.answers("baseline").values()]
    assert said == ["prose"] * 8 + ["other prose"] * 4


def test_grow_is_no_excuse_for_the_looks_before_it_was_declared(world: World) -> None:
    judge(world.run("decision: {min_gain: 0.1}\n"))
    run = judge_on(world, 12, right=11, look=2)
    growth = run.context.facts.tree()["looks"]["growth"]
    assert (growth["k"], growth["ends"]) == (2, [])
    assert run.decision().alpha == 0.05 / 6
    assert any(
        "decision.grow was declared after this adapter had been judged" in risk
        for risk in run.decision().risks
    )


def test_a_changed_setting_of_the_decision_is_another_look(world: World) -> None:
    judge_on(world, 8, right=4)
    world.write({"eval.jsonl": rows(12, "case", "expected")})
    run = world.run(GROW.replace("0.1}", "0.05}"))
    judge(run, right=11, look=2)
    growth = run.context.facts.tree()["looks"]["growth"]
    assert (growth["k"], growth["ends"]) == (2, [])


def judge_on(world: World, count: int, *, right: int, look: int = 1) -> ExperimentRun:
    world.write({"eval.jsonl": rows(count, "case", "expected")})
    run = world.run(GROW)
    judge(run, right=right, look=look)
    return run
