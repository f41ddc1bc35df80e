"""Two real processes under ``accelerate launch``, over gloo on the CPU: what one process would have trained."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_finetune.data.formatting import Pair
from pytest_finetune.experiment import Launcher, Training
from pytest_finetune.training.difference import largest_difference
from pytest_finetune.training.request import Progress, TrainingError, TrainingInterrupted, TrainingRequest
from pytest_finetune.training.sft import train

from .conftest import sums

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

Ask = Callable[..., TrainingRequest]
# 45 rows of different lengths in batches of 8: the last step of an epoch has 5, so that two processes cannot share it
# evenly, and each step's mean is over another number of tokens.
PAIRS = tuple(Pair(pair.prompt, f"{pair.completion}{' so' * (7 * i % 9)}") for i, pair in enumerate(sums(45)))
ONE = Training(
    max_seq_length=128,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=4,
    learning_rate=1e-2,
    num_train_epochs=2.0,
)
TWO = replace(ONE, launcher=Launcher(2))
SHARED = (
    "the model was shared out (FSDP 2): each process held 237 KiB of 473 KiB of weights",
    "the longest batch was not measured before: a shared model lies on its cards once the training has begun",
)


@pytest.fixture(autouse=True)
def _without_bitsandbytes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide it from the processes: nothing here is quantised, and its import is half of their start."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['bitsandbytes'] = None\n")
    path = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


@pytest.mark.parametrize(
    "shard",
    [False, pytest.param(True, marks=pytest.mark.nightly)],
    ids=["a model each", "a model shared out"],
)
def test_two_processes_end_where_one_does_though_ctrl_c_came_between(ask: Ask, shard: bool) -> None:
    alone = train(ask("alone", pairs=PAIRS, training=ONE, held_out=PAIRS[:3]))
    told: list[Progress] = []

    def stop_in_the_second_epoch(progress: Progress) -> None:
        told.append(progress)
        if progress.step == 7:
            signal.raise_signal(signal.SIGINT)

    training = replace(TWO, shard=shard)
    request = ask(
        "together", pairs=PAIRS, training=training, held_out=PAIRS[:3], progress=stop_in_the_second_epoch
    )
    with pytest.raises(
        TrainingInterrupted, match=r"training stopped after step \d+ of 12; a whole checkpoint"
    ) as stop:
        train(request)
    stopped = int(str(stop.value).split()[4])
    assert 7 <= stopped < 12
    assert (request.checkpoints / f"checkpoint-{stopped}" / "COMPLETE.json").is_file()
    assert descendants() == []
    assert not request.folder.exists()

    together = train(replace(request, progress=told.append))
    assert together.resumed_from == stopped
    assert together.steps == alone.steps == 12
    assert [step.step for step in told] == list(range(1, 13))
    assert all(
        step.loss == pytest.approx(of["loss"], abs=1e-5) for step, of in zip(told, alone.log, strict=True)
    )
    assert [entry["loss"] for entry in together.log] == pytest.approx(
        [e["loss"] for e in alone.log], abs=1e-5
    )
    assert [entry["learning_rate"] for entry in together.log] == [
        entry["learning_rate"] for entry in alone.log
    ]
    losses = [entry["loss"] for entry in alone.held_out_loss]
    assert [entry["loss"] for entry in together.held_out_loss] == pytest.approx(losses, abs=1e-5)
    apart = largest_difference(together.folder, alone.folder)
    assert apart is not None
    assert apart < 1e-5
    assert together.notes == (
        "2 processes (gloo): gradient_accumulation_steps 4 -> 2 each, effective batch still 8",
        *(SHARED if shard else ()),
    )
    assert (together.tokens, together.trainable) == (alone.tokens, alone.trainable)
    assert sorted(file.name for file in together.folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert descendants() == []


def test_a_process_that_is_killed_ends_the_other_and_is_told(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)

    def kill_the_second(progress: Progress) -> None:
        if progress.step == 3:
            seen.extend(descendants())
            (second,) = [pid for pid in seen if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
            os.kill(second, signal.SIGKILL)

    request = ask(pairs=PAIRS, training=replace(TWO, sft={"save_steps": 2}), progress=kill_the_second)
    with pytest.raises(TrainingError) as caught:
        train(request)
    text = str(caught.value)
    assert text.startswith("process 1 of 2 was ended by SIGKILL (the system does so when memory runs out)")
    assert f"the end of the log ({request.checkpoints}/processes.log):" in text
    assert len(seen) >= 3, "the launcher and its two processes"
    assert [pid for pid in seen if alive(pid)] == []
    assert not request.folder.exists()
    assert any(request.checkpoints.glob("checkpoint-*/COMPLETE.json")), "something to go on from"
    assert list(temporary.iterdir()) == []


SESSION = """\
def test_trained(trained_adapter):
    assert trained_adapter.steps == 3
"""
EXPERIMENT = """\
task: sums
base_model: base
peft_method: lora
lora: {r: 4}
training: {max_seq_length: 64, per_device_train_batch_size: 4, gradient_accumulation_steps: 2, max_steps: 3,
           learning_rate: LEARNING_RATE, launcher: {processes: 2}, shard: SHARD}
prompt: {template: "{input} ->", few_shot: 0}
paths: {train_file: train.jsonl, eval_file: eval.jsonl}
"""


@pytest.mark.parametrize(
    ("rate", "shard"),
    [
        pytest.param("0.001", "false", id="trained"),
        pytest.param("0.001", "true", id="shared out"),
        # What a process says in its failure file and what a session makes of it are tested apart in test_launch.py.
        pytest.param("1.0e+30", "false", id="not finite", marks=pytest.mark.nightly),
    ],
)
def test_a_session_trains_in_two_processes(
    rate: str, shard: str, pytester: pytest.Pytester, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "finetune.yaml").write_text(
        EXPERIMENT.replace("LEARNING_RATE", rate).replace("SHARD", shard)
    )
    (pytester.path / "base").symlink_to(tiny_base)
    rows = [{"instruction": "add", "input": f"{n} and {n + 1}", "output": str(2 * n + 1)} for n in range(40)]
    (pytester.path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [
        {"instruction": "add", "input": f"{n} plus {n + 2}", "expected": str(2 * n + 2)}
        for n in range(60, 90)
    ]
    (pytester.path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    pytester.makepyfile(test_training=SESSION)

    ran = pytester.runpytest_inprocess("--finetune", "--finetune-device=cpu")

    text = (pytester.path / "finetune-record" / "record.json").read_text()
    (experiment,) = json.loads(text)["experiments"]
    if rate == "0.001":
        ran.assert_outcomes(passed=1)
        training = experiment["training"]
        shared = SHARED if shard == "true" else ()
        assert training["notes"] == [
            "2 processes (gloo): gradient_accumulation_steps 2 -> 1 each, effective batch still 8",
            *shared,
        ]
        assert experiment["key_fields"]["training"].get("shard", False) is bool(shared)
        assert training["delta_nonzero"] is True
        assert [entry["step"] for entry in training["log"]] == [1, 2, 3]
        assert (pytester.path / training["adapter_path"] / "adapter_model.safetensors").is_file()
        assert experiment["key_fields"]["training"]["launcher"] == {"processes": 2}
        assert experiment["config"]["training"]["launcher"] == {"processes": 2}
        assert not list((pytester.path / ".finetune" / "checkpoints").iterdir())
    else:
        ran.assert_outcomes(errors=1)
        ran.stdout.fnmatch_lines(
            ["*the loss is nan at step * of 3: the training was stopped and nothing stored"]
        )
        ran.stdout.fnmatch_lines(
            ["*  train.jsonl:*", "*the learning rate was *: lower training.learning_rate *"]
        )
        assert "Traceback" not in ran.stdout.str()
        assert experiment["training"] is None


def descendants() -> list[int]:
    """Return the processes that this one has started, directly or not, and that still run."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents[int(folder.name)] = int(parent)

    def ours(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == os.getpid():
                return True
        return False

    return [pid for pid in parents if ours(pid)]


def alive(pid: int) -> bool:
    """Tell whether a process still runs some seconds later."""
    patience = time.monotonic() + 60
    while time.monotonic() < patience:
        try:
            if (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.05)
    return True
