"""Replay in a run: the base's own answers beside the rows, asked once, apart in the facts, and the drift before it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.arm_plans import BASELINE, TUNED
from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.experiment import ExperimentError, Generation
from pytest_finetune.store import Store
from pytest_finetune.suite.steps.replaying import drift_without
from pytest_finetune.training.request import TrainingRequest, TrainingResult

from .conftest import TableRuntime, World
from .test_drifting import SeeingRuntime

ASKS = 'prompt: {template: "{instruction} {input} ->"}\n'
REPLAY = ASKS + "training: {learning_rate: 0.001, replay: {share: 0.25}}\n"


class Watching(World):
    """A world that keeps what is trained on, with a runtime of one's choice."""

    trained: TrainingRequest
    runtime: Callable[[World, str], TableRuntime] = SeeingRuntime

    @pytest.hookimpl
    def pytest_finetune_train(self, request: TrainingRequest) -> TrainingResult:
        """Keep the request."""
        self.trained = request
        return super().pytest_finetune_train(request)

    @pytest.hookimpl
    def pytest_finetune_runtime(self, name: str, base: str) -> TableRuntime | None:
        """Return the runtime under the built-in one's name."""
        return type(self).runtime(self, base) if name == "transformers" else None


@pytest.fixture
def watching(world: World) -> Watching:
    return Watching(world.path)


def test_the_bases_answers_are_taught_beside_the_rows_and_counted_apart(watching: Watching) -> None:
    run = watching.run(REPLAY)
    run.begin()
    _ = run.adapter
    assert watching.asked() == ["answer base", "release", "train"]
    asked = watching.trained
    assert len(asked.pairs) == len(asked.rows) == 12 + 4
    assert asked.rows[12].startswith("replay_prompts.jsonl:")
    assert asked.pairs[12].fields() == ["Answer the question. What do bees make from nectar? ->", " prose"]
    facts = run.context.facts.tree()["training"]["replay"]
    assert (facts["prompts"], facts["rows"], facts["left_out"], facts["share"]) == ("neutral", 4, 0, 0.25)
    assert run.context.facts.tree()["data"]["train"]["rows"] == 12
    again = watching.run(REPLAY)
    again.begin()
    assert again.adapter.reused
    assert watching.asked() == []
    assert again.context.facts.tree()["training"]["replay"] == facts


def test_only_what_is_replayed_changes_the_key_and_the_same_training_without_it_is_known(
    world: World,
) -> None:
    plain = ASKS + "training: {learning_rate: 0.001}\n"
    without, replayed, more = (world.run(text) for text in (plain, REPLAY, REPLAY.replace("0.25", "0.4")))
    for run in (without, replayed, more):
        run.begin()
    assert len({without.adapter.key, replayed.adapter.key, more.adapter.key}) == 3
    assert replayed.context.facts.tree()["training"]["replay"]["without_key"] == without.adapter.key
    assert "replay" not in without.context.facts.tree()["key_fields"]["training"]
    assert "replay" not in without.experiment.resolved["training"]


class Cut(SeeingRuntime):
    """A base that often does not end, and whose first answer is empty."""

    def answer(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None = None
    ) -> list[Answer]:
        """Cut every second answer."""
        found = super().answer(prompts, generation, adapter)
        assert generation.max_new_tokens == 256
        return [
            dataclasses.replace(one, stopped=i % 2 == 0, response=one.response * (i > 0))
            for i, one in enumerate(found)
        ]


def test_an_answer_that_was_cut_or_is_empty_is_not_taught(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watching, "runtime", Cut)
    run = watching.run(REPLAY)
    run.begin()
    _ = run.adapter
    facts = run.context.facts.tree()["training"]["replay"]
    assert (facts["rows"], facts["left_out"]) == (1, 3)
    watching.base_says = ""
    none = r"none of the base's 4 answers can be taught: 4 are empty or cut at 256 tokens"
    with pytest.raises(pytest.fail.Exception, match=none):
        _ = watching.run(REPLAY.replace("->", "=>")).adapter


def test_the_drift_before_replay_is_found_by_the_key_without_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    drift = {"outcome": "measured", "sha256": "5" * 64, "prompts": 40, "answers_changed": 40, "mean_kl": 2.0,
             "like_task": {"base": 0, "tuned": 40, "p_value": 0.0}}  # fmt: skip

    def write(folder: Path) -> None:
        (folder / "run.json").write_text(json.dumps({"experiment": {"drift": drift}}), encoding="utf-8")

    store.commit("records", "a" * 64, write, {"key": "k" * 64})
    found = drift_without(store, "k" * 64, "5" * 64)
    assert (found["run"], found["answers_changed"], found["like_task"]["tuned"]) == ("a" * 64, 40, 40)
    assert drift_without(store, "k" * 64, "6" * 64) == {}, "other prompts"
    assert drift_without(store, "l" * 64, "5" * 64) == {}


def test_a_template_with_a_fixed_instruction_needs_prompts_of_its_own(world: World) -> None:
    with pytest.raises(
        ExperimentError, match=r"training.replay.prompts: 'neutral' prompts bring their own instruction"
    ):
        world.experiment('prompt: {template: "Label: {input}"}\ntraining: {replay: {}}\n')
    with pytest.raises(
        ExperimentError, match=r"training.replay.prompts: found 'no.jsonl', but there is no such file"
    ):
        world.experiment(ASKS + "training: {replay: {prompts: no.jsonl}}\n")


def test_a_random_adapter_is_asked_once_in_the_same_load(watching: Watching) -> None:
    asks = ASKS + "drift: true\n"
    run = watching.run(asks)
    run.begin()
    for arm in (TUNED, BASELINE):
        run.answers(arm)
    assert watching.asked() == ["train", *["answer tuned"] * 3, *["answer base"] * 2]
    assert run.drift.null_changed == 40
    assert run.context.facts.tree()["drift"]["null_changed"] == 40
    assert run.drift.explain()[1] == "a random adapter of the same size changes 40 of 40 answers"
    watching.asked()
    again = watching.run(asks)
    again.begin()
    assert again.drift.null_changed == 40
    assert watching.asked() == []
