"""A disk that fills up while a training writes: nothing by half is taken for whole, and what is whole is gone on from."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.experiment import Training
from pytest_finetune.training import adapter
from pytest_finetune.training.checkpoints import SEAL, whole_steps
from pytest_finetune.training.full_disk import system_errors, write_or_make_room
from pytest_finetune.training.request import TrainingRequest
from pytest_finetune.training.sft import train

Ask = Callable[..., TrainingRequest]

FOUR_STEPS = Training(
    max_seq_length=128,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=1,
    learning_rate=1e-2,
    max_steps=4,
    sft={"save_steps": 1},
)


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainingRequest], bytes]:
    """Return what the training gives on a disk with room."""
    known: list[bytes] = []

    def run(request: TrainingRequest) -> bytes:
        if not known:
            folder = tmp_path_factory.mktemp("room")
            known.append(
                weights(train(replace(request, folder=folder / "a", checkpoints=folder / "c")).folder)
            )
        return known[0]

    return run


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], bool]], None]:
    """Let the writer of adapters meet a full disk, half-way, where it is asked to write into such a folder."""
    write = adapter.save_adapter

    def full_for(meets: Callable[[Path], bool]) -> None:
        def save(model: Any, experiment: Any, folder: Path, *rest: Any) -> None:
            if meets(folder):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "adapter_model.safetensors").write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            write(model, experiment, folder, *rest)

        monkeypatch.setattr(adapter, "save_adapter", save)

    return full_for


def test_a_disk_that_was_full_for_a_moment_costs_older_checkpoints_and_nothing_else(
    ask: Ask, disk: Callable[[Callable[[Path], bool]], None], undisturbed: Callable[[TrainingRequest], bytes]
) -> None:
    request = ask(training=FOUR_STEPS)
    expected = undisturbed(request)
    met: list[str] = []

    def once_each(folder: Path) -> bool:
        if folder.name in ("checkpoint-3", "adapter") and folder.name not in met:
            met.append(folder.name)
            return True
        return False

    disk(once_each)
    assert weights(train(request).folder) == expected
    assert met == ["checkpoint-3", "adapter"]
    assert whole_steps(request.checkpoints) == [4]


@pytest.mark.parametrize(("where", "kept", "trained"), [("checkpoint-3", [2], [3, 4]), ("adapter", [4], [])])
def test_a_disk_that_stays_full_stops_the_training_which_goes_on_from_what_is_whole(
    ask: Ask,
    disk: Callable[[Callable[[Path], bool]], None],
    undisturbed: Callable[[TrainingRequest], bytes],
    where: str,
    kept: list[int],
    trained: list[int],
) -> None:
    request = ask(training=FOUR_STEPS)
    expected = undisturbed(request)
    disk(lambda folder: folder.name == where)
    with pytest.raises(OSError) as caught:
        train(request)
    assert caught.value.errno == errno.ENOSPC
    assert whole_steps(request.checkpoints) == kept
    assert not (request.checkpoints / "checkpoint-3" / SEAL).exists()
    disk(lambda _: False)
    told: list[int] = []
    result = train(ask(training=FOUR_STEPS, progress=lambda progress: told.append(progress.step)))
    assert (result.resumed_from, told) == (kept[-1], trained)
    assert weights(result.folder) == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_what_torch_says_of_a_full_disk_is_the_error_of_the_system() -> None:
    import torch

    with pytest.raises(OSError) as caught, system_errors(Path("/dev")):
        torch.save({"moments": torch.zeros(1000)}, "/dev/full")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev")


def test_only_a_full_disk_is_tried_again_and_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    made_room: list[str] = []

    def refuse() -> None:
        raise PermissionError(errno.EACCES, "no")

    def fail() -> None:
        raise RuntimeError("a fault of ours")

    for write, error in ((refuse, PermissionError), (fail, RuntimeError)):
        with pytest.raises(error):
            write_or_make_room(write, lambda: made_room.append("room"), tmp_path)
    assert made_room == []
