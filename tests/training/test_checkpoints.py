from __future__ import annotations

import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_finetune.experiment import Lora, Training
from pytest_finetune.training import checkpoints
from pytest_finetune.training.checkpoints import (
    SEAL,
    Checkpoint,
    Pace,
    drop_others,
    newest,
    seal,
    whole_steps,
)
from pytest_finetune.training.request import Progress, TrainingInterrupted, TrainingRequest
from pytest_finetune.training.sft import train

Ask = Callable[..., TrainingRequest]

TRAINING = Training(
    max_seq_length=128,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    learning_rate=1e-2,
    num_train_epochs=2.0,
    warmup_steps=2,
    sft={"save_steps": 1},
)
DROPOUT = Lora(r=4, alpha=8, dropout=0.3)


class Killed(BaseException):
    """Stands for a kill: nothing in the package may catch it."""


def dies_at(step: int) -> Callable[[Progress], None]:
    def tell(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    return tell


def presses_ctrl_c_at(step: int) -> Callable[[Progress], None]:
    def tell(progress: Progress) -> None:
        if progress.step == step:
            signal.raise_signal(signal.SIGINT)

    return tell


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[TrainingRequest], bytes]:
    """Return what a request's training gives when nothing disturbs it."""

    known: dict[str, bytes] = {}

    def run(request: TrainingRequest) -> bytes:
        asked = repr((request.experiment.training, request.experiment.lora))
        if asked not in known:
            folder = tmp_path_factory.mktemp("whole")
            undisturbed = replace(request, folder=folder / "a", checkpoints=folder / "c")
            known[asked] = weights(train(undisturbed).folder)
        return known[asked]

    return run


def fill(folder: Path, step: int, identity: str = "ours") -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "adapter_model.safetensors").write_bytes(b"weights %d" % step)
    (made / "optimizer.pt").write_bytes(b"moments")
    seal(made, identity)
    return made


def test_the_newest_whole_checkpoint_of_this_training_is_found(tmp_path: Path) -> None:
    fill(tmp_path, 9)
    fill(tmp_path, 100)
    fill(tmp_path, 200, identity="another")
    assert newest(tmp_path, "ours") == Checkpoint(100, tmp_path / "checkpoint-100")
    assert newest(tmp_path, "nobody's") is None
    assert newest(tmp_path / "missing", "ours") is None


def test_a_half_written_a_changed_and_an_unsealed_checkpoint_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    (fill(tmp_path, 2) / "optimizer.pt").write_bytes(b"momentz")
    (fill(tmp_path, 3) / "optimizer.pt").unlink()
    (fill(tmp_path, 4) / SEAL).unlink()
    (fill(tmp_path, 5) / SEAL).write_text("{")
    (tmp_path / "checkpoint-6").write_text("a file")
    found = newest(tmp_path, "ours")
    assert found == Checkpoint(1, tmp_path / "checkpoint-1")
    drop_others(tmp_path, found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-6"]
    assert whole_steps(tmp_path) == [1]


def test_a_link_among_the_checkpoints_is_not_followed(tmp_path: Path) -> None:
    elsewhere = fill(tmp_path / "elsewhere", 3)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "checkpoint-3").symlink_to(elsewhere)
    assert newest(inside, "ours") is None
    drop_others(inside, None)
    assert (elsewhere / SEAL).is_file()


@pytest.mark.parametrize("step", [1, 5])
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    step: int, ask: Ask, uninterrupted: Callable[[TrainingRequest], bytes]
) -> None:
    request = ask(training=TRAINING, lora=DROPOUT)
    with pytest.raises(Killed):
        train(ask(training=TRAINING, lora=DROPOUT, progress=dies_at(step)))
    assert not request.folder.exists()
    result = train(request)
    assert result.resumed_from == (step - 1 or None)
    assert [entry["step"] for entry in result.log] == list(range(1, 9))
    assert weights(result.folder) == uninterrupted(request)


def test_a_training_killed_in_another_process_goes_on_here_with_the_same_bytes(
    ask: Ask, uninterrupted: Callable[[TrainingRequest], bytes], tmp_path: Path
) -> None:
    request = ask(training=TRAINING, lora=DROPOUT)
    (tmp_path / "request.pickle").write_bytes(pickle.dumps(request))
    code = (
        "import dataclasses, os, pathlib, pickle, signal, sys\n"
        "from pytest_finetune.training.sft import train\n"
        "request = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "die = lambda progress: progress.step == 4 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "train(dataclasses.replace(request, progress=die))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "request.pickle")]
    assert subprocess.run(command, check=False, timeout=240).returncode == -signal.SIGKILL
    result = train(request)
    assert result.resumed_from == 3
    assert weights(result.folder) == uninterrupted(request)


def test_ctrl_c_ends_the_step_leaves_a_checkpoint_and_says_how_to_go_on(
    ask: Ask, uninterrupted: Callable[[TrainingRequest], bytes]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    seldom = {"save_steps": 100}
    training = replace(TRAINING, sft=seldom)
    with pytest.raises(TrainingInterrupted) as caught:
        train(ask(training=training, lora=DROPOUT, progress=presses_ctrl_c_at(3)))
    assert str(caught.value) == (
        "training stopped after step 3 of 8; a whole checkpoint of it is stored: run the same command again "
        "and it goes on from there"
    )
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGINT) is before
    request = ask(training=training, lora=DROPOUT)
    assert whole_steps(request.checkpoints) == [3]
    result = train(request)
    assert result.resumed_from == 3
    assert weights(result.folder) == uninterrupted(request)


def test_a_short_training_takes_no_checkpoint_and_a_long_one_takes_them_by_time(
    ask: Ask, uninterrupted: Callable[[TrainingRequest], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_time = replace(TRAINING, sft={})
    request = ask(training=by_time, lora=DROPOUT)
    assert weights(train(request).folder) == uninterrupted(ask(training=TRAINING, lora=DROPOUT))
    assert whole_steps(request.checkpoints) == []
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    monkeypatch.setattr(checkpoints, "MOST_SHARE", 1.0)
    shutil.rmtree(request.folder)
    with pytest.raises(Killed):
        train(ask(training=by_time, lora=DROPOUT, progress=dies_at(5)))
    result = train(request)
    assert result.resumed_from == 4
    assert weights(result.folder) == uninterrupted(ask(training=TRAINING, lora=DROPOUT))


def test_checkpoints_come_a_minute_apart_and_take_a_twentieth_of_the_time_at_most() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    pace.begin()
    taken: list[int] = []
    for now in range(0, 600, 10):
        if pace.due(spent=4.0 * len(taken)):
            taken.append(now)
    assert taken == [60, 120, 180, 240, 320, 400, 480, 560]


def test_ctrl_c_at_the_last_step_loses_nothing(ask: Ask) -> None:
    assert train(ask(training=TRAINING, progress=presses_ctrl_c_at(8))).steps == 8


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    ask: Ask, uninterrupted: Callable[[TrainingRequest], bytes]
) -> None:
    request = ask(training=TRAINING, lora=DROPOUT)
    with pytest.raises(Killed):
        train(ask(training=TRAINING, lora=DROPOUT, progress=dies_at(6)))
    damaged = request.checkpoints / "checkpoint-5" / "optimizer.pt"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    result = train(request)
    assert result.resumed_from == 4
    assert weights(result.folder) == uninterrupted(request)


def test_a_checkpoint_of_another_training_is_never_gone_on_from(ask: Ask) -> None:
    with pytest.raises(Killed):
        train(ask(training=TRAINING, lora=DROPOUT, progress=dies_at(6)))
    changed = train(ask(training=TRAINING, lora=Lora(r=4, alpha=16, dropout=0.3)))
    assert changed.resumed_from is None


def test_no_more_checkpoints_stay_than_the_limit(ask: Ask) -> None:
    request = ask(training=TRAINING)
    train(request)
    assert whole_steps(request.checkpoints) == [7, 8]
    assert sorted(path.name for path in request.checkpoints.iterdir()) == ["checkpoint-7", "checkpoint-8"]
    assert sorted(path.name for path in (request.checkpoints / "checkpoint-8").iterdir()) == [
        "COMPLETE.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "trainer_state.json",
    ]


def test_checkpoints_that_go_missing_cost_only_time(ask: Ask) -> None:
    request = ask(training=TRAINING)
    with pytest.raises(Killed):
        train(ask(training=TRAINING, progress=dies_at(6)))
    shutil.rmtree(request.checkpoints)
    assert train(request).resumed_from is None
