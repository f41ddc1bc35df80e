"""The wiring of a run: its parts on demand, its gate, and the decision from its facts, without a pytest session."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_finetune.answering.arm_plans import BASELINE, TUNED
from pytest_finetune.suite.markers import ExperimentRef, Stage
from pytest_finetune.suite.run import ExperimentRun

from .conftest import World, rows


def judge(run: ExperimentRun, *, right: int = 8, text: str = "0" * 64, look: int = 1) -> None:
    """Record a primary rule as if it had run: the base is never right, chance on a quarter, tuned on the first rows."""
    run.begin()
    ids = [row.id for row in run.eval_rows]
    scores = {
        BASELINE: [0] * len(ids),
        "majority": [int(i % 4 == 0) for i in range(len(ids))],
        TUNED: [int(i < right) for i in range(len(ids))],
    }
    facts: dict[str, Any] = {
        "nodeid": "test_rules.py::test_label",
        "primary": True,
        "min_gain": 0.1,
        "sha256": text,
        "changed_after_look": False,
        "reasons": [],
        "outcome": "passed",
        "rows": ids,
        "scores": scores,
    }
    run.context.record(("rules", "label"), facts)
    assert run.looks == look


def test_runs_beside_each_other_do_not_take_the_same_look(world: World) -> None:
    """Neither has ended when the other asks; who asks again is told its own number."""
    judge(world.run())
    judge(world.run(), text="1" * 64, look=2)
    judge(world.run())


def test_nothing_is_made_before_it_is_asked_for(world: World) -> None:
    run = world.run()
    assert run.charter.findings()
    assert world.asked() == []
    assert not (world.path / "store").exists()


def test_an_arm_answers_once_and_the_tuned_one_after_its_training(world: World) -> None:
    run = world.run()
    run.answers(TUNED)
    run.answers(TUNED)
    run.answers(BASELINE)
    assert world.asked() == ["train", "answer tuned", "answer base"]
    facts = run.context.facts.tree()["arms"]
    assert (facts[TUNED]["outputs"], facts[TUNED]["answers"]) == ("outputs/tuned.jsonl", 8)
    again = world.run()
    assert again.answers(TUNED)["case000"].response == '{"label": "high"}'
    assert world.asked() == []


def test_the_decision_follows_from_the_facts(world: World) -> None:
    world.write({"eval.jsonl": rows(40, "case", "expected")})
    run = world.run()
    judge(run, right=40)
    assert run.decision().verdict == "keep"
    assert run.context.facts.tree()["looks"]["k"] == 1


def test_an_undecided_run_is_judged_without_its_rows(world: World) -> None:
    run = world.run()
    run.begin()
    world.write({"eval.jsonl": "no JSON\n"})
    assert run.decision().undecided


def test_a_diagnosis_of_a_plugin_that_fails_does_not_cost_the_decision(world: World) -> None:
    class Broken:
        """A plugin with a fault."""

        @pytest.hookimpl
        def pytest_finetune_diagnose(self, evidence: object) -> None:
            """Fail."""
            raise RuntimeError("a fault of the plugin")

    world.plugins.append(Broken())
    run = world.run()
    judge(run, right=7)  # nothing of ours has a reason to speak
    (warning,) = [text for text in run.decision().risks if "pytest_finetune_diagnose" in text]
    assert warning.endswith("RuntimeError: a fault of the plugin; correct the plugin")


def test_a_failed_training_closes_the_gate_and_is_then_told_in_one_line(world: World) -> None:
    world.loss = float("nan")
    run = world.run()
    with pytest.raises(pytest.fail.Exception, match="such a training is not kept"):
        _ = run.adapter
    with pytest.raises(
        pytest.fail.Exception, match="not run: the training failed before: the trainer reports"
    ):
        run.answers(TUNED)
    assert world.asked() == ["train"]
    gate = run.context.facts.tree()["gate"]
    assert (gate["stage"], gate["by"]) == (Stage.TRAINING.word, "the training")


def test_rows_that_break_the_contract_train_nothing(world: World) -> None:
    held_out = (world.path / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    leaked = {**json.loads(held_out[0]), "output": '{"label": "high"}'}
    leaked.pop("expected")
    train = (world.path / "train.jsonl").read_text(encoding="utf-8")
    world.write({"train.jsonl": f"{train}{json.dumps(leaked)}\n"})
    run = world.run()
    with pytest.raises(pytest.fail.Exception, match="nothing is trained: the rows break the contract"):
        _ = run.adapter
    assert world.asked() == []
    assert run.context.facts.tree()["gate"]["by"] == "the built-in contract check"


def test_an_arm_from_outside_that_is_missing_is_found_before_the_training(world: World) -> None:
    run = world.run("arms: {champion: {adapter: abc123}}\n")
    with pytest.raises(pytest.fail.Exception, match=r"arms\.champion\.adapter: 'abc123' is no adapter"):
        _ = run.adapter
    assert world.asked() == []
    assert run.context.facts.tree()["gate"]["by"] == "the arms of the experiment"


def test_an_unknown_suite_or_arm_names_those_that_are_known(world: World) -> None:
    run = world.run()
    with pytest.raises(
        pytest.fail.Exception, match=r"eval_rule\(suite='hard'\): no such suite .* known: none"
    ):
        run.rows_of("hard")
    with pytest.raises(
        pytest.fail.Exception, match="there is no arm 'champion'; known: baseline, majority, tuned"
    ):
        run.arm("champion")


def test_candidates_need_one_primary_rule(world: World) -> None:
    run = world.run('prompt: {template: "{input} ->", candidates: ["Label: {input} ->"]}\n')
    with pytest.raises(pytest.fail.Exception, match="ranked by the primary rule, and there are 0"):
        run.answers("best_prompt")
    assert run.ref == ExperimentRef("finetune.yaml")
