"""The answers of an arm: what they depend on, when a model is asked, and what is recorded."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pytest_finetune.answering.answers import answer_json
from pytest_finetune.answering.arm_plans import BASELINE, TUNED, planned, repeated
from pytest_finetune.answering.prompts import Prompted, arm_prompts
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.rows import Rows, read_rows
from pytest_finetune.suite.context import Context
from pytest_finetune.suite.steps.answering import (
    ResolvedArm,
    answered,
    imported,
    noise,
    record_answers,
    resolve,
)
from pytest_finetune.suite.steps.engine import Engine
from pytest_finetune.suite.steps.external_arms import Outside, Project, outside_of

from .conftest import World

CONSTRAIN = (
    "generation: {max_new_tokens: 8, constrain: contract}\n"
    "paths: {train_file: train.jsonl, eval_file: eval.jsonl, contract_file: contract.yaml}\n"
)


def held_out(world: World) -> Rows:
    return read_rows(world.path, "eval.jsonl", "eval")


def prompts(context: Context, world: World) -> tuple[Prompted, ...]:
    return arm_prompts(held_out(world), context.experiment.prompt)


def baseline(context: Context, engine: Engine) -> ResolvedArm:
    plan = planned(context.experiment)[BASELINE]
    return resolve(plan, context.experiment, engine, Contract.default(), None, None)


def test_a_model_is_asked_once_and_the_store_answers_afterwards(world: World) -> None:
    for reused, calls in ((False, ["answer base"]), (True, [])):
        context = world.context()
        engine = Engine(context)
        stored = answered(context, engine, baseline(context, engine), prompts(context, world))
        assert (stored.reused, world.asked()) == (reused, calls)
        assert [answer.response for answer in stored.answers.values()] == ["prose"] * 8


def test_what_an_answer_depends_on_is_in_the_key_of_the_resolved_arm(world: World) -> None:
    context = world.context()
    arm = baseline(context, Engine(context))
    asked = prompts(context, world)
    sampled = dataclasses.replace(arm.plan.generation, do_sample=True)
    drawn = dataclasses.replace(arm, plan=dataclasses.replace(arm.plan, generation=sampled))
    other = [
        drawn,
        dataclasses.replace(arm, model="another base or adapter"),
        dataclasses.replace(arm, environment={**arm.environment, "torch": "0.1"}),
        dataclasses.replace(arm, plan=dataclasses.replace(arm.plan, run=2)),
    ]
    keys = [arm.key(asked).value, arm.key(asked[1:]).value, *(one.key(asked).value for one in other)]
    assert len(set(keys)) == len(keys)
    assert drawn.greedy().key(asked).value == keys[0]
    renamed = dataclasses.replace(arm, plan=dataclasses.replace(arm.plan, name="another name"))
    assert renamed.key(asked).value == keys[0]


def test_a_row_inserted_above_asks_nothing_again_and_moves_the_lines(world: World) -> None:
    context = world.context()
    engine = Engine(context)
    asked = prompts(context, world)
    answered(context, engine, baseline(context, engine), asked)
    lower = [one._replace(line=one.line + 1) for one in asked]
    stored = answered(context, engine, baseline(context, engine), lower)
    assert stored.reused
    assert [answer.line for answer in stored.answers.values()] == [one.line for one in lower]


def test_tools_are_kept_with_an_answer_to_messages_and_not_where_the_prompt_holds_them(world: World) -> None:
    context = world.context()
    engine = Engine(context)
    messages = [{"role": "user", "content": "Größe?"}]
    tool = {"type": "function", "function": {"name": "refill"}}
    text = Prompted("r1", 1, "refill? Größe?", [tool])
    stored = [
        answered(context, engine, baseline(context, engine), [asked])
        for asked in (Prompted("r1", 1, messages, [tool]), Prompted("r1", 1, messages), text)
    ]
    kept = [answer for one in stored for answer in one.answers.values()]
    assert [list(answer.tools) for answer in kept] == [[tool], [], []]
    assert [answer_json(answer).get("tools") for answer in kept] == [(tool,), None, None]


def test_an_arm_under_a_schema_needs_one_and_a_runtime_that_can(world: World) -> None:
    world.write(
        {"contract.yaml": "task: priority\nversion: 1\noutput: {format: json, schema: {type: object}}\n"}
    )
    context = world.context(CONSTRAIN)
    engine = Engine(context)
    plan = planned(context.experiment)["constrained"]
    with pytest.raises(AnsweringError, match=r"has no output\.schema to decode under"):
        resolve(plan, context.experiment, engine, Contract.default(), None, None)
    contract = dataclasses.replace(Contract.default(), schema={"type": "object"})
    arm = resolve(plan, context.experiment, engine, contract, None, None)
    assert arm.plan.generation.constrain == '{"type":"object"}'
    with pytest.raises(AnsweringError, match="the runtime 'transformers' cannot decode under a schema"):
        answered(context, engine, arm, prompts(context, world))


def test_another_base_answers_after_ours_has_given_its_memory_back(world: World) -> None:
    world.write({"other/config.json": '{"model_type": "llama"}'})
    (world.path / "other" / "model.safetensors").write_bytes(
        (world.path / "base" / "model.safetensors").read_bytes()[:-4] + b"abcd"
    )
    context = world.context("arms: {bigger: {base_model: other}}\n")
    engine, plan = Engine(context), planned(context.experiment)["bigger"]
    project = Project(context.experiment, context.store, lambda: engine.the_base_model, held_out(world))
    outside = outside_of(project, plan)
    arm = resolve(plan, context.experiment, engine, Contract.default(), outside.adapter, outside)
    assert arm.model != baseline(context, engine).model
    stored = answered(context, engine, arm, prompts(context, world))
    assert world.asked() == ["release", "answer other", "release"]
    record_answers(context, plan, stored, arm.facts)
    facts = context.facts.tree()["arms"]["bigger"]
    assert (facts["model"], facts["base_model"], facts["answers"]) == ("base_model", "other", 8)


def test_imported_answers_are_kept_and_recorded_like_our_own(world: World) -> None:
    rows = held_out(world)
    lines = [{"id": row.id, "response": "theirs"} for row in rows]
    world.write({"theirs.jsonl": "".join(json.dumps(line) + "\n" for line in lines)})
    context = world.context("arms: {theirs: {answers: theirs.jsonl}}\n")
    plan = planned(context.experiment)["theirs"]
    base = Engine(context)
    outside = outside_of(Project(context.experiment, context.store, lambda: base.the_base_model, rows), plan)
    assert outside.answers is not None
    stored = imported(context, plan, outside.answers)
    assert context.store.read("outputs", stored.key) is not None
    record_answers(context, plan, stored, outside.facts)
    facts = context.facts.tree()["arms"]["theirs"]
    assert (facts["source"], facts["outputs_key"], facts["reused"]) == ("theirs.jsonl", stored.key, True)
    assert world.asked() == []


def test_an_adapter_that_is_not_in_the_store_is_named_with_the_arm(world: World) -> None:
    context = world.context("arms: {champion: {adapter: abc123}}\n")
    engine, plan = Engine(context), planned(context.experiment)["champion"]
    project = Project(context.experiment, context.store, lambda: engine.the_base_model, held_out(world))
    with pytest.raises(AnsweringError, match=r"arms\.champion\.adapter: 'abc123' is no adapter in the store"):
        outside_of(project, plan)


def test_what_an_adapter_from_outside_brings_is_in_key_and_facts(world: World) -> None:
    run = world.run()
    context, engine = run.context, run.engine
    plan = dataclasses.replace(
        planned(context.experiment)[BASELINE], name="champion", model="adapter", source="abc"
    )
    outside = Outside({"key": "abc"}, adapter=run.adapter.path)
    arm = resolve(plan, context.experiment, engine, Contract.default(), outside.adapter, outside)
    tuned = resolve(
        planned(context.experiment)[TUNED],
        context.experiment,
        engine,
        Contract.default(),
        run.adapter.path,
        None,
    )
    asked = prompts(context, world)
    assert arm.key(asked).value == tuned.key(asked).value
    assert arm.facts["key"] == "abc"


def test_further_runs_of_the_base_tell_which_answers_differ_by_noise(world: World) -> None:
    context = world.context("decision: {noise_runs: 2}\n")
    engine = Engine(context)
    stored = answered(context, engine, baseline(context, engine), prompts(context, world))
    world.base_says = "other prose"
    arms = [
        resolve(plan, context.experiment, engine, Contract.default(), None, None)
        for plan in repeated(context.experiment)
    ]
    further = noise(context, engine, arms, held_out(world), stored.answers)
    assert [{answer.response for answer in again.values()} for again in further] == [{"other prose"}] * 2
    facts = context.facts.tree()["noise"]
    assert [facts[number]["changed"] for number in ("2", "3")] == [list(stored.answers)] * 2
    assert len({stored.key, *(run["outputs_key"] for run in facts.values())}) == 3
    assert world.asked() == ["answer base"] * 3
    assert noise(context, engine, arms, held_out(world), stored.answers) == further
    assert world.asked() == []
