"""The training step with a stand-in trainer: what is trained, what is reused, and what is recorded of it."""

from __future__ import annotations

import errno
import os
import re
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_finetune import hookspecs
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.formatting import Pair, Turns, format_pair
from pytest_finetune.data.rows import Row, read_rows
from pytest_finetune.experiment import Prompt
from pytest_finetune.memory.hardware.disk import DiskPlan
from pytest_finetune.memory.hardware.sizes import MiB
from pytest_finetune.store import StoreError
from pytest_finetune.suite.context import Context
from pytest_finetune.suite.steps.data_step import Data
from pytest_finetune.suite.steps.engine import Engine
from pytest_finetune.suite.steps.making import trainers
from pytest_finetune.suite.steps.training_step import TrainingStep
from pytest_finetune.training.checkpoints import seal
from pytest_finetune.training.request import TrainingError, TrainingRequest

from .conftest import World, rows


def step(
    world: World, context: Context, engine: Engine | None = None, warning: str | None = None
) -> TrainingStep:
    train, held_out = (read_rows(world.path, f"{split}.jsonl", split) for split in ("train", "eval"))
    data = Data(Contract.default(), train, held_out)
    return TrainingStep(context, engine or Engine(context), data, lambda: None, lambda: warning)


def test_a_stored_adapter_is_reused_and_nothing_is_trained(world: World) -> None:
    first = step(world, world.context()).adapter()
    assert (first.reused, first.steps, world.asked()) == (False, 2, ["train"])
    context = world.context()
    again = step(world, context).adapter()
    assert (again.reused, again.key, again.path, world.asked()) == (True, first.key, first.path, [])
    facts = context.facts.tree()
    assert facts["key"] == first.key
    assert (facts["training"]["reuse"], facts["training"]["adapter_key"]) == ("exact", first.key)
    assert facts["training"]["adapter_path"] == f"store/adapters/{first.key}"
    assert facts["key_changed"] == {}


def test_other_training_rows_are_another_adapter_and_what_changed_is_recorded(world: World) -> None:
    first = step(world, world.context()).adapter()
    world.write({"train.jsonl": rows(13, "training ticket", "output")})
    context = world.context()
    assert step(world, context).adapter().key != first.key
    assert list(context.facts.tree()["key_changed"]) == ["pairs.count", "pairs.sha256"]


def test_a_retraining_trains_anew_and_is_compared_with_what_it_replaces(world: World) -> None:
    first = world.context(retrain=True)
    step(world, first).adapter()
    assert "retrained" not in first.facts.tree()["training"]
    context = world.context(retrain=True)
    assert not step(world, context).adapter().reused
    assert world.asked() == ["train", "train"]
    assert context.facts.tree()["training"]["retrained"]["same_weights"] is True


def test_a_training_warns_first_and_gets_the_memory_of_what_answers(world: World) -> None:
    context = world.context()
    engine = Engine(context)
    engine.runtime("transformers")
    step(world, context, engine, "this gate will not open").adapter()
    assert world.line.said == ["warning: this gate will not open"]
    assert world.asked() == ["release", "train"]


def test_a_training_whose_loss_is_no_number_is_not_kept(world: World) -> None:
    world.loss = float("nan")
    context = world.context()
    with pytest.raises(TrainingError, match="a loss of nan"):
        step(world, context).adapter()
    assert list(context.store.entries("adapters")) == []
    assert "training" not in context.facts.tree()


def test_losses_on_held_out_rows_that_have_changed_since_are_told(world: World) -> None:
    key = step(world, world.context()).adapter().key
    world.write({"eval.jsonl": rows(9, "case", "expected")})
    context = world.context()
    again = step(world, context).adapter()
    assert (again.reused, again.key) == (True, key)
    assert context.facts.tree()["training"]["notes"] == [
        "the held-out losses were taken on other rows: paths.eval_file has changed since this adapter was trained "
        "(pytest --finetune --finetune-retrain takes them anew)"
    ]


def test_an_unchanged_held_out_file_is_not_formatted_for_the_losses_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the file says is known by its checksum; the prompt is part of the adapter's key."""
    step(world, world.context()).adapter()
    formatted: list[str] = []

    def format_noted(row: Row, prompt: Prompt, turns: Turns) -> Pair:
        formatted.append(row.file)
        return format_pair(row, prompt, turns)

    monkeypatch.setattr("pytest_finetune.suite.steps.training_step.format_pair", format_noted)
    assert step(world, world.context()).adapter().reused
    assert set(formatted) == {"train.jsonl"}


def test_a_trainer_is_named_by_its_file_and_by_the_version_that_it_gives_itself() -> None:
    """So another script or package behind the same hook never reuses its adapter."""

    class Plain:
        @pytest.hookimpl
        def pytest_finetune_train(self) -> None: ...

    class Versioned:
        @pytest.hookimpl
        def pytest_finetune_train(self) -> None: ...

        pytest_finetune_train.version = "axolotl 0.13.0"  # type: ignore[attr-defined]

    def named(*plugins: object) -> str:
        manager = pytest.PytestPluginManager()
        manager.add_hookspecs(hookspecs)
        for plugin in plugins:
            manager.register(plugin)
        return trainers(manager.hook)

    plain, versioned = named(Plain()), named(Versioned())
    assert re.fullmatch(r"[\w.]+:[0-9a-f]{16}\+trl", plain)
    assert versioned == plain.replace("+trl", ":axolotl 0.13.0+trl")


def test_a_full_disk_is_told_with_what_is_free_what_is_needed_and_what_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(request: TrainingRequest) -> None:
        if world.loss:
            (request.checkpoints / "checkpoint-40").mkdir(parents=True)
            seal(request.checkpoints / "checkpoint-40", "ours")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(request.folder))

    monkeypatch.setattr("pytest_finetune.suite.steps.making.take", full)
    monkeypatch.setattr("pytest_finetune.suite.steps.making.given_digest", lambda _: "0" * 64)
    disk = DiskPlan(adapter_bytes=10 * MiB, checkpoint_bytes=30 * MiB, kept=2, tokenizer_bytes=0)
    fit: Any = SimpleNamespace(plan=SimpleNamespace(disk=disk))
    context = world.context("trained: {adapter: theirs}\n")
    train, held_out = (read_rows(world.path, f"{split}.jsonl", split) for split in ("train", "eval"))
    data = Data(Contract.default(), train, held_out)
    for sealed, kept in (
        (0, "no checkpoint was whole yet: nothing is kept, and the next run begins anew"),
        (1, "a whole checkpoint of step 40 is kept: once there is room, the same command goes on from there"),
    ):
        world.loss = sealed
        with pytest.raises(StoreError) as caught:
            TrainingStep(context, Engine(context), data, lambda: fit, lambda: None).adapter()
        first, free, last = str(caught.value).splitlines()
        assert first.endswith(
            "the disk is full; free space (see `pytest-finetune gc`), or use --finetune-store=DIR"
        )
        assert re.fullmatch(
            rf"  [\d.]+ .iB are free on the disk of {re.escape(str(context.store.root))}; the training writes up to "
            r"111 MiB there \(3 checkpoints 90\.0 MiB, adapter 10\.0 MiB, bundle 11\.0 MiB\)",
            free,
        )
        assert last == f"  {kept}"
    assert list(context.store.entries("adapters")) == []
