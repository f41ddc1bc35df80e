"""Several seeds: each trained once, reused by key, and the judged one chosen on development rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.arm_plans import asking_order
from pytest_finetune.answering.prompts import Prompted
from pytest_finetune.experiment import Generation
from pytest_finetune.judging.scores import Tally
from pytest_finetune.suite.steps.seeds import OnDevelopment, chosen
from pytest_finetune.suite.steps.training_step import kept_loss
from pytest_finetune.training.request import TrainingRequest

from .conftest import World


def on_rows(passed: float) -> OnDevelopment:
    return OnDevelopment("label", Tally(passed, 40), "ab")


def test_the_judged_seed_is_the_best_on_development_rows_and_the_first_of_equals() -> None:
    choice = chosen(True, {3: on_rows(30), 1: on_rows(35), 2: on_rows(35)}, {3: 0.1, 1: 0.9, 2: 0.5})
    assert (choice.seed, choice.by) == (1, "rule")
    assert choice.says == (
        "seed 1 is judged, chosen by label on 40 development rows (87.5%; the others 75.0%, 87.5%)"
    )


def test_without_a_rule_the_loss_chooses_and_without_both_the_order() -> None:
    assert chosen(True, {3: None, 1: None}, {3: 0.5, 1: 0.25}).says == (
        "seed 1 is judged, chosen by the loss on the development rows (0.25; the others 0.5)"
    )
    assert chosen(True, {3: None, 1: None}, {3: 0.5, 1: None}).says == (
        "seed 3 is judged, the first of the list: no primary rule can be asked about development rows, and no loss on "
        "them is known (training.keep: best)"
    )
    choice = chosen(False, {3: None, 1: None}, {3: None, 1: None})
    assert (choice.seed, choice.by) == (3, "order")
    assert choice.says.endswith(
        "there are no development rows to choose on (paths.dev_file, or split: {dev: 0.1})"
    )


def test_what_was_trained_with_a_seed_alone_is_reused_and_a_second_run_trains_nothing(world: World) -> None:
    alone = world.run("training: {num_train_epochs: 1, seed: 2}\n")
    key = alone.adapter.key
    assert world.asked() == ["train"]
    several = world.run("training: {num_train_epochs: 1, seeds: [0, 2]}\n")
    assert set(several.answers("seed 2")) == set(several.answers("tuned"))
    assert [call for call in world.asked() if call == "train"] == ["train"]
    recipe = several.context.facts.tree()["recipe"]
    assert [one["key"] for one in recipe["seeds"]] == [several.adapter.key, key]
    assert [one["reused"] for one in recipe["seeds"]] == [False, True]
    assert (recipe["seed"], recipe["chosen_by"]) == (0, "order")
    assert several.context.facts.tree()["key"] == several.adapter.key
    again = world.run("training: {num_train_epochs: 1, seeds: [2, 0]}\n")
    again.answers("seed 0")
    assert world.asked() == []
    assert again.adapter.key == key  # the first of the list


def test_what_an_interrupted_run_has_trained_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    more = "training: {num_train_epochs: 1, seeds: [0, 1]}\n"
    real = type(world).pytest_finetune_train

    class Stopping:
        @pytest.hookimpl(tryfirst=True)
        def pytest_finetune_train(self, request: object) -> object:
            if len(world.calls) == 1:
                raise KeyboardInterrupt
            return real(world, request)  # type: ignore[arg-type]

    world.plugins.append(Stopping())
    with pytest.raises(KeyboardInterrupt):
        _ = world.run(more).adapter
    assert world.asked() == ["train"]
    world.plugins[-1] = Passing()
    run = world.run(more)
    _ = run.adapter
    assert world.asked() == ["train"]
    assert [one["reused"] for one in run.context.facts.tree()["recipe"]["seeds"]] == [True, False]


class Passing:
    """The plugin of the interrupted run, which now leaves the training to the other one: the same name in the key."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_finetune_train(self, request: object) -> Path | None:
        return None


@pytest.mark.parametrize(
    ("kept_step", "looks", "loss"),
    [(None, [1.5, 1.0, 2.0], 2.0), (2, [1.5, 1.0, 2.0], 1.0), (None, [], None)],
)
def test_a_seeds_loss_is_that_of_the_adapter_that_was_kept(
    kept_step: int | None, looks: list[float], loss: float | None
) -> None:
    told = [{"step": step, "loss": look} for step, look in enumerate(looks, start=1)]
    assert kept_loss({"dev_loss": told, "kept_step": kept_step}) == loss


class Prod:
    """A second runtime, which notes the adapter that it is asked with, and a look at what the trainer is told."""

    def __init__(self) -> None:
        self.adapters: list[str] = []
        self.told: list[tuple[int, int]] = []

    @pytest.hookimpl
    def pytest_finetune_runtime(self, name: str) -> Prod | None:
        return self if name == "prod" else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_finetune_train(self, request: TrainingRequest) -> None:
        training = request.experiment.training
        self.told.append((training.seed, training.launcher.processes))

    def answer(
        self, prompts: Sequence[Prompted], generation: Generation, adapter: Path | None = None
    ) -> list[Answer]:
        assert adapter is not None
        self.adapters.append(adapter.name)
        return [Answer(asked.id, asked.line, str(asked.prompt), "said", 4, 0.01, True) for asked in prompts]

    def release(self) -> None:
        """Hold nothing."""


def test_each_seed_is_trained_by_the_launcher_and_only_the_judged_one_is_asked_in_a_further_runtime(
    world: World,
) -> None:
    world.plugins.append(prod := Prod())
    run = world.run(
        "training: {seeds: [5, 7], per_device_train_batch_size: 2, launcher: {processes: 2}}\n"
        "runtimes: [transformers, prod]\n"
    )
    for arm in asking_order(run.arms):
        run.answers(arm)
    assert prod.told == [(5, 2), (7, 2)]
    assert [arm for arm in run.arms if "@" in arm] == ["tuned@prod"]
    assert prod.adapters == [run.seeds.paths[5].name] == [run.adapter.path.name]
