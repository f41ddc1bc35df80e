"""Trials one after the other: parts of the rows, values of a setting, and what a search keeps of what it tried."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.executors import outcomes
from pytest_finetune.executors.protocol import ExecutorError, Seen, Submission
from pytest_finetune.executors.waiting import JobError
from pytest_finetune.experiment import Generation
from pytest_finetune.experiment.over import Choice, parse_over
from pytest_finetune.store import StoreError
from pytest_finetune.suite.jobs.sending import SentAway
from pytest_finetune.suite.trials.bench import Bench
from pytest_finetune.suite.trials.curve import over_rows, over_values
from pytest_finetune.suite.trials.search import Search
from pytest_finetune.suite.trials.trial import trial_of
from pytest_finetune.training.request import Progress, TrainingError, TrainingRequest, TrainingResult

from .conftest import LABELS, World, rows, safetensors

DEV = "paths: {train_file: train.jsonl, eval_file: eval.jsonl, dev_file: dev.jsonl}\n"
RULE = """\
import pytest

@pytest.mark.eval_rule(primary=True)
def test_label(response, example):
    assert response.text == example.expected
"""
BEST_RATE = 4e-4


class Formula:
    """A trainer and a model: what share is answered rightly hangs on the learning rate, the rank and the rows."""

    def __init__(self) -> None:
        self.trained: list[tuple[int, int | None, int, float]] = []
        self.fault: Exception | None = None

    @pytest.hookimpl
    def pytest_finetune_train(self, request: TrainingRequest) -> TrainingResult:
        training, rank = request.experiment.training, request.experiment.lora.r
        self.trained.append((len(request.pairs), training.max_steps, rank, training.learning_rate))
        off = abs(math.log(training.learning_rate / BEST_RATE))
        if self.fault is not None:
            raise self.fault
        if training.learning_rate > 5e-3:
            raise TrainingError("the loss is nan at step 3 of 20: the training was stopped")
        for step in range(1, 21):
            request.progress(Progress(step, 20, 1.0, 0.1, 0.1, None, step / 10, unseen_loss=off + 1 / step))
        skill = 0.5 + 0.1 * math.log2(len(request.pairs) / 64) + 0.05 * math.log2(rank / 4) - off / 10
        names = [f"base_model.model.q.lora_{side}.weight" for side in "AB"]
        (request.folder / "adapter_model.safetensors").write_bytes(safetensors([0.5, skill], *names))
        (request.folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "skill": skill}))
        return TrainingResult(folder=request.folder, steps=20, seconds=0.1, final_loss=0.5, log=())

    @pytest.hookimpl
    def pytest_finetune_runtime(self, name: str) -> Formula:
        return self

    def answer(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None = None
    ) -> list[Answer]:
        assert adapter is not None
        right = json.loads((adapter / "adapter_config.json").read_text())["skill"] * len(prompts)
        said = [
            json.dumps({"label": LABELS[at % 4]}) if at < right else "prose" for at in range(len(prompts))
        ]
        return [
            Answer(asked.id, asked.line, str(asked.prompt), text, 4, 0.01, True)
            for asked, text in zip(prompts, said, strict=True)
        ]

    def release(self) -> None:
        """Hold nothing."""


@pytest.fixture
def formula(world: World) -> Formula:
    world.write(
        {"train.jsonl": rows(64, "training ticket", "output"), "dev.jsonl": rows(80, "choice", "output")}
    )
    formula = Formula()
    world.plugins.append(formula)
    return formula


@pytest.fixture
def rules(pytester: pytest.Pytester) -> Sequence[pytest.Item]:
    return [pytester.getitem(RULE, "test_label")]


def bench(world: World, rules: Sequence[pytest.Item]) -> Bench:
    return Bench(world.context(DEV), rules, {"trials": []})


def search(
    world: World, rules: Sequence[pytest.Item], over: Sequence[str], budget: int
) -> list[dict[str, Any]]:
    made = bench(world, rules)
    Search(made, parse_over(over), budget, seed=0).run()
    trials: list[dict[str, Any]] = made.found["trials"]
    return trials


def test_parts_of_the_rows_are_trained_for_as_many_steps_as_all(
    world: World, formula: Formula, rules: Sequence[pytest.Item]
) -> None:
    made = bench(world, rules)
    over_rows(made)
    assert [(count, steps) for count, steps, *_ in formula.trained] == [
        (64, None),
        (32, 20),
        (16, 20),
        (8, 20),
    ]
    assert [trial["score"]["passed"] for trial in made.found["trials"]] == [35, 27, 19, 11]
    assert "all 64 training rows: 43.8% of 80 development rows (35), trained now" in world.line.said
    over_rows(bench(world, rules))
    assert len(formula.trained) == 4


def test_each_value_of_a_setting_is_trained_once(
    world: World, formula: Formula, rules: Sequence[pytest.Item]
) -> None:
    made = bench(world, rules)
    over_values(made, Choice("lora.r", (4, 8)))
    assert [rank for _, _, rank, _ in formula.trained] == [4, 8]
    assert [trial["overrides"] for trial in made.found["trials"]] == [{"lora.r": 4}, {"lora.r": 8}]


def test_a_search_goes_on_where_it_was(world: World, formula: Formula, rules: Sequence[pytest.Item]) -> None:
    over = ["training.learning_rate=5e-5..1e-2", "lora.r=4,8"]
    first = search(world, rules, over, 5)
    assert len(formula.trained) == 5
    more = search(world, rules, over, 14)
    assert len(formula.trained) == 14
    assert [trial["values"] for trial in more[:5]] == [trial["values"] for trial in first]
    states = [trial["state"] for trial in more]
    assert {*states} == {"complete", "pruned", "failed"}
    why = {trial["state"]: trial["why"] for trial in more}
    assert why["failed"] == "the loss is nan at step 3 of 20: the training was stopped"
    assert "of the steps was no better than half of those before" in why["pruned"]
    best = max((trial for trial in more if trial["tried"]), key=lambda trial: trial["tried"]["score"]["rate"])
    assert abs(math.log(best["values"]["training.learning_rate"] / BEST_RATE)) < 1
    again = search(world, rules, over, 14)
    assert len(formula.trained) == 14
    assert [trial["values"] for trial in again] == [trial["values"] for trial in more]


@pytest.mark.parametrize(
    ("fault", "of_the_values"),
    [
        (StoreError("no space is left"), False),
        (ExecutorError("'sky' cannot be started"), False),
        (JobError("the job ended and left no result"), False),
        (JobError("the job ended: failed: the loss is nan", outcomes.FAILED.word), True),
        (JobError("no listed card holds this training", outcomes.MEMORY.word), True),
    ],
)
def test_only_what_the_values_brought_about_is_a_failed_trial(
    world: World, formula: Formula, rules: Sequence[pytest.Item], fault: Exception, of_the_values: bool
) -> None:
    formula.fault = fault
    if of_the_values:
        assert [trial["why"] for trial in search(world, rules, ["lora.r=4,8"], 2)] == [str(fault)] * 2
        return
    with pytest.raises(pytest.fail.Exception, match=str(fault)):
        search(world, rules, ["lora.r=4,8"], 2)
    formula.fault = None
    assert [trial["state"] for trial in search(world, rules, ["lora.r=4,8"], 2)] == ["complete"] * 2


def test_a_trial_that_is_a_job_is_sent_with_its_own_settings(
    world: World, formula: Formula, rules: Sequence[pytest.Item]
) -> None:
    context = world.context(DEV)
    context = dataclasses.replace(context, jobs=SentAway(Refusing(), lambda: context))
    trial = trial_of(context, rules, {"lora.r": 8})
    key = trial.training.key().value
    with pytest.raises(
        pytest.fail.Exception, match=rf"sent: the training of finetune\[lora.r=8\] \({key[:12]}\)"
    ):
        _ = trial.adapter
    asked = context.store.jobs.request(key)
    assert asked is not None
    assert asked["experiment"]["keys"]["lora"]["r"] == 8


class Refusing:
    """An executor that says what it is sent, and takes nothing."""

    name = "refusing"

    def submit(self, step: Submission) -> Mapping[str, Any]:
        raise ExecutorError(f"sent: {step.what}")

    def look(self, step: Submission, ticket: Any) -> Seen:
        return Seen("unknown")

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_a_search_that_was_stopped_makes_the_same_proposals(
    world: World, formula: Formula, rules: Sequence[pytest.Item]
) -> None:
    over = ["training.learning_rate=5e-5..4e-3"]
    whole = [trial["values"] for trial in search(world, rules, over, 7)]
    made = bench(world, rules)
    kept = made.context.store.last
    names = [file.stem for file in (made.context.store.root / "last").glob("search-*")]
    made.context.store.remember(names[0], {"trials": kept(names[0])["trials"][:3]})  # type: ignore[index]
    assert [trial["values"] for trial in search(world, rules, over, 7)] == whole


def test_a_space_of_choices_ends_when_all_is_tried(
    world: World, formula: Formula, rules: Sequence[pytest.Item]
) -> None:
    trials = search(world, rules, ["lora.r=4,8", "training.seed=0,1"], 30)
    assert len(trials) == len(formula.trained) == 4
    assert trials[0]["values"] == {"lora.r": 4, "training.seed": 0}  # as the experiment is written


def test_other_rows_make_another_search(world: World, formula: Formula, rules: Sequence[pytest.Item]) -> None:
    search(world, rules, ["lora.r=4,8"], 2)
    world.write({"dev.jsonl": rows(60, "other choice", "output")})
    trials = search(world, rules, ["lora.r=4,8"], 2)
    assert [trial["tried"]["score"]["total"] for trial in trials] == [60, 60]
    assert len(formula.trained) == 2  # the adapters are the same
