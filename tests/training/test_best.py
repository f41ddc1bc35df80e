"""The adapter that is kept is the one that did best on the development rows, whole, resumed or interrupted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.experiment import Training
from pytest_finetune.training.best import Best, best_step, is_due
from pytest_finetune.training.request import Progress, TrainingError, TrainingRequest, TrainingResult
from pytest_finetune.training.sft import train

from .conftest import sums

Ask = Callable[..., TrainingRequest]

TRAINING = Training(
    max_seq_length=128,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=1,
    learning_rate=0.02,
    max_steps=6,
    lr_scheduler_type="constant",
    keep="best",
    sft={"save_steps": 2},
)
# The questions that are trained on with the answers of others: what is learnt after a while makes them worse.
DEV = tuple(
    replace(row, completion=other.completion) for row, other in zip(sums(8), sums(16)[5:], strict=False)
)


def weights(result: TrainingResult) -> bytes:
    return (result.folder / "adapter_model.safetensors").read_bytes()


class Killed(BaseException):
    """Stands for a kill."""


def test_the_adapter_of_the_lowest_loss_is_kept_and_an_interruption_changes_nothing(ask: Ask) -> None:
    told: list[Progress] = []
    whole = train(ask("whole", training=TRAINING, dev=DEV, progress=told.append))
    assert [one.unseen_loss for one in told] == [
        entry["loss"] for entry in whole.dev_loss
    ]  # for who would stop it
    losses = {entry["step"]: entry["loss"] for entry in whole.dev_loss}
    assert list(losses) == [1, 2, 3, 4, 5, 6]
    assert whole.kept_step == min(losses, key=lambda step: losses[step])
    assert 1 < whole.kept_step < whole.steps
    assert sorted(path.name for path in whole.folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip

    # It is that of a training that ends there.
    short = train(ask("short", training=replace(TRAINING, keep="last", max_steps=whole.kept_step)))
    assert weights(whole) == weights(short)

    def kill_late(progress: Progress) -> None:
        if progress.step == 6:
            raise Killed

    with pytest.raises(Killed):
        train(ask("cut", training=TRAINING, dev=DEV, progress=kill_late))
    resumed = train(ask("cut", training=TRAINING, dev=DEV))
    assert resumed.resumed_from is not None
    assert (resumed.kept_step, resumed.dev_loss) == (whole.kept_step, whole.dev_loss)
    assert weights(resumed) == weights(whole)


def test_without_development_rows_the_last_adapter_is_kept(ask: Ask) -> None:
    result = train(ask(training=replace(TRAINING, keep="last", max_steps=2)))
    assert (result.dev_loss, result.kept_step) == ((), None)


@pytest.mark.parametrize(
    ("steps", "looked_at"), [(5, [1, 2, 3, 4, 5]), (20, list(range(2, 21, 2))), (25, list(range(2, 26, 2)))]
)
def test_development_rows_are_looked_at_ten_times(steps: int, looked_at: list[int]) -> None:
    assert [step for step in range(1, steps + 1) if is_due(step, steps)] == looked_at


def test_the_earliest_of_equals_is_the_best() -> None:
    log: list[dict[str, float]] = [{"step": 1, "loss": 3.0}, {"step": 1, "dev_loss": 2.0}]
    log += [{"step": 2, "dev_loss": 1.5}, {"step": 3, "dev_loss": 1.5}]
    assert best_step(log) == 2
    assert best_step([]) is None


@pytest.mark.parametrize("damage", ["changed", "gone", "of another training"])
def test_a_best_adapter_that_is_no_longer_whole_is_never_taken(damage: str, tmp_path: Path) -> None:
    log: Any = [{"step": 4, "dev_loss": 1.0}]

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"weights")

    Best(tmp_path, "mine" if damage != "of another training" else "other", write).consider(log)
    if damage == "changed":
        (tmp_path / "best-4" / "weights").write_bytes(b"other")
    if damage == "gone":
        shutil.rmtree(tmp_path / "best-4")
    with pytest.raises(TrainingError, match=r"the adapter of step 4 is no longer whole"):
        Best(tmp_path, "mine", write).take(log, tmp_path / "out")
    assert not (tmp_path / "out").exists()
