"""The drift step: both models' answers to neutral prompts, asked once, and why there is none where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.arm_plans import BASELINE, TUNED
from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.answering.runtimes.protocol import AnsweringError
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.neutral import neutral_rows
from pytest_finetune.data.rows import read_rows
from pytest_finetune.judging.drift import Drift
from pytest_finetune.suite.context import Context
from pytest_finetune.suite.steps.answering import Stored
from pytest_finetune.suite.steps.drifting import NO_INSTRUCTION, Drifting

from .conftest import TableRuntime, World

ASKS = 'prompt: {template: "{instruction} {input} ->"}\n'


class SeeingRuntime(TableRuntime):
    """A runtime that sees the probabilities of both models."""

    def token_kl(
        self, prompts: Sequence[Prompted], answers: Sequence[Answer], adapter: Path
    ) -> list[tuple[float, ...]]:
        """Return the same divergence everywhere."""
        self.world.calls.append("token_kl")
        return [(0.5, 0.25) for _ in prompts]


class Models:
    """Stands for both arms: what each says, and how often it was asked."""

    def __init__(self, base: str = "Paris", tuned: str = '{"label": "high"}', broken: str = "") -> None:
        self.says = {BASELINE: base, TUNED: tuned}
        self.broken = broken
        self.asked: list[str] = []

    def __call__(self, arm: str, prompts: Sequence[Prompted]) -> Stored:
        """Answer, unless this arm is broken."""
        self.asked.append(arm)
        if arm == self.broken:
            raise AnsweringError("the server is gone")
        answers = {
            one.id: Answer(one.id, one.line, str(one.prompt), self.says[arm], 2, 0.0, True) for one in prompts
        }
        return Stored(answers, {BASELINE: "a" * 64, TUNED: "b" * 64}[arm], False)


def drifting(context: Context, world: World, models: Models, runtime: TableRuntime) -> Drifting:
    return Drifting(context, neutral_rows(world.path, None), models, lambda: runtime)


def measure(one: Drifting, world: World) -> Drift:
    train = read_rows(world.path, "train.jsonl", "train")
    return one.measure(lambda: world.path / "adapter", Contract.default(), train)


def test_each_model_is_asked_once_and_answers_of_the_task_are_told(world: World) -> None:
    context, models = world.context(ASKS), Models()
    one = drifting(context, world, models, TableRuntime(world, "base"))
    for arm in (TUNED, BASELINE, "champion"):
        one.ask_along(arm)
    assert models.asked == [TUNED, BASELINE]
    drift = measure(one, world)
    assert models.asked == [TUNED, BASELINE]
    assert float(drift.changed) == 1.0
    assert drift.kl_reason == "the runtime 'transformers' gives texts and no probabilities"
    facts = context.facts.tree()["drift"]
    assert (facts["outcome"], facts["runtime"], facts["file"]) == ("measured", "transformers", None)
    assert all(row["tuned_like_task"] and not row["base_like_task"] for row in facts["rows"])


def test_the_divergence_is_measured_once_and_read_from_the_store_afterwards(world: World) -> None:
    for calls in (["token_kl"], []):
        one = drifting(world.context(ASKS), world, Models(), SeeingRuntime(world, "base"))
        assert float(measure(one, world).mean_kl) == 0.375
        assert world.asked() == calls


def test_a_divergence_that_fails_costs_itself_alone_and_is_tried_again(world: World) -> None:
    class Full(SeeingRuntime):
        """A runtime with too little memory."""

        def token_kl(
            self, prompts: Sequence[Prompted], answers: Sequence[Answer], adapter: Path
        ) -> list[tuple[float, ...]]:
            """Fail."""
            super().token_kl(prompts, answers, adapter)
            raise MemoryError("no room\nat all")

    for _ in range(2):
        drift = measure(drifting(world.context(ASKS), world, Models(), Full(world, "base")), world)
        assert (drift.measured, drift.kl_reason) == (True, "MemoryError: no room")
        assert world.asked() == ["token_kl"]


def test_a_model_that_cannot_answer_makes_no_drift_and_fails_nothing(world: World) -> None:
    context = world.context(ASKS)
    drift = measure(drifting(context, world, Models(broken=BASELINE), TableRuntime(world, "base")), world)
    assert not drift.measured
    assert drift.reason == "AnsweringError: the server is gone"
    assert context.facts.tree()["drift"]["outcome"] == "error"


def test_prompts_that_ship_are_not_asked_through_a_template_without_an_instruction(world: World) -> None:
    context, models = world.context(), Models()
    one = drifting(context, world, models, TableRuntime(world, "base"))
    one.ask_along(TUNED)
    assert measure(one, world).reason == NO_INSTRUCTION
    assert models.asked == []
