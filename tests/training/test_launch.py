"""The session's side of several processes, with a stand-in for the launcher: what it starts, hears, raises and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.experiment import Launcher, Training
from pytest_finetune.training.memory_error import OutOfMemoryError
from pytest_finetune.training.processes import launch, worker
from pytest_finetune.training.processes.exchange import Exchange
from pytest_finetune.training.request import (
    Progress,
    TrainingError,
    TrainingInterrupted,
    TrainingRequest,
    TrainingResult,
)

Ask = Callable[..., TrainingRequest]
TWO = Training(gradient_accumulation_steps=8, launcher=Launcher(2))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a few lines of Python in the launcher's place; `exchange` is theirs."""

    def put(lines: str) -> None:
        head = "import os, sys, time; from pathlib import Path; from pytest_finetune.training.processes.exchange import *\n"
        script = f"{head}exchange = Exchange(Path(sys.argv[1]))\n{textwrap.dedent(lines)}"
        monkeypatch.setattr(launch, "_command", lambda folder, _: [sys.executable, "-c", script, str(folder)])

    return put


@pytest.mark.parametrize(
    ("device", "processes", "visible", "devices"),
    [
        ("cpu", 3, 0, ("cpu", "cpu", "cpu")),
        ("cuda", 2, 2, ("cuda:0", "cuda:1")),
        ("cuda", 2, 8, ("cuda:0", "cuda:1")),
    ],
)
def test_each_process_gets_a_card_or_all_get_the_cpu(
    device: str, processes: int, visible: int, devices: tuple[str, ...]
) -> None:
    assert launch.devices_of(device, processes, visible) == devices


@pytest.mark.parametrize(
    ("device", "visible", "chosen", "said"),
    [
        (
            "cuda",
            1,
            None,
            "4 processes, one a card, and there is 1: write processes: 1 (--finetune-set training.launcher.processes=1)\n"
            "  under pytest -n each worker has one card of its own: train this experiment without -n",
        ),
        ("cuda", 2, "0,3", "and CUDA_VISIBLE_DEVICES=0,3 shows 2: write processes: 2 "),
        (
            "cuda:1",
            8,
            None,
            "4 processes and the device is cuda:1, one card: write --finetune-device=cuda, and CUDA_",
        ),
        ("mps", 0, None, "4 processes, which run on NVIDIA and AMD cards or on the CPU, not on 'mps'"),
    ],
)
def test_too_few_cards_are_told_before_anything_starts(
    device: str, visible: int, chosen: str | None, said: str, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    monkeypatch.setattr(launch, "visible_cards", lambda _: visible)
    request = ask(training=Training(launcher=Launcher(4)), device=device)
    with pytest.raises(TrainingError) as caught:
        launch.train_in_processes(request)
    assert said in str(caught.value)
    assert not request.checkpoints.exists()


def test_other_launchers_variables_stay_outside_and_nothing_is_spoken_but_over_loopback(
    tmp_path: Path,
) -> None:
    ours = {
        "RANK": "7",
        "ACCELERATE_USE_FSDP": "true",
        "PET_NNODES": "9",
        "PATH": "/bin",
        "PYTHONPATH": "/mine",
    }
    environment = launch._environment(ours, tmp_path, True, 2)
    assert not {"RANK", "ACCELERATE_USE_FSDP", "PET_NNODES"} & environment.keys()
    assert environment["PATH"] == "/bin"
    assert environment["PYTHONPATH"].endswith(f"{os.pathsep}/mine")
    assert environment["GLOO_SOCKET_IFNAME"].startswith("lo")
    assert environment["PYTHONSAFEPATH"] == "1", "a file of the project would take a module's place"
    assert environment["PET_LOCAL_ADDR"] == "127.0.0.1"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert int(environment["OMP_NUM_THREADS"]) >= 1
    assert launch._environment({"OMP_NUM_THREADS": "3"}, tmp_path, False, 2)["OMP_NUM_THREADS"] == "3"
    assert "HF_HUB_OFFLINE" not in launch._environment({}, tmp_path, False, 2)


def test_progress_and_result_are_those_that_the_processes_tell(
    ask: Ask, stand_in: Callable[[str], None]
) -> None:
    stand_in(
        """
        request = exchange.request(1, print)
        assert oct(exchange.folder.stat().st_mode)[-2:] == "00", "others may look into the folder"
        exchange.tell(Progress(1, 2, 0.5, 1.0, 1.0, None, 0.5))
        exchange.tell(Progress(2, 2, 0.25, 2.0, 0.0, 9.0, 1.0, 4096))
        exchange.finish(TrainingResult(request.folder, steps=2, seconds=1e9, final_loss=0.25, log=(), notes=("told",)))
        """
    )
    heard: list[Progress] = []
    request = ask(training=TWO, progress=heard.append)
    result = launch.train_in_processes(request)
    assert [(step.step, step.loss, step.memory_bytes) for step in heard] == [(1, 0.5, None), (2, 0.25, 4096)]
    assert (result.steps, result.final_loss, result.notes) == (2, 0.25, ("told",))
    assert result.folder == request.folder
    assert 0 < result.seconds < 600, "the session's own clock counts, start of the processes included"
    assert list(request.checkpoints.iterdir()) == []


@pytest.mark.parametrize(
    ("lines", "kind", "said"),
    [
        ("exchange.fail(1, 'training', 'row 7 is too long')", TrainingError, "row 7 is too long"),
        (
            "exchange.fail(0, 'interrupted', 'stopped after step 3')",
            TrainingInterrupted,
            "stopped after step 3",
        ),
        (
            "exchange.fail(0, 'other', 'RuntimeError: Connection closed by peer')\n"
            "exchange.fail(1, 'training', 'the loss is nan at step 2')",
            TrainingError,
            "the loss is nan at step 2",
        ),
        (
            "exchange.fail(1, 'memory', 'the training ran out of memory on cpu')",
            OutOfMemoryError,
            "the training ran out of memory on cpu\n  change one thing; the memory plan",
        ),
        (
            "exchange.fail(1, 'disk', 'OSError: full')",
            OSError,
            "[Errno 28] OSError: full",
        ),
        (
            "print('the reason'); exchange.fail(0, 'other', 'KeyError: 7')",
            TrainingError,
            "process 0 of 2 failed: KeyError: 7, and the training ended with it",
        ),
        (
            "print('the reason')",
            TrainingError,
            "the 2 training processes ended without a result, and the training",
        ),
        (
            "print('the reason'); print('rank : 1 (local_rank: 1)\\n  exitcode : -9 (pid: 5)')",
            TrainingError,
            "process 1 of 2 was ended by SIGKILL (the system does so when memory runs out), and the training ended",
        ),
        (
            "(exchange.folder / 'result.json').write_text('{}')",
            TrainingError,
            "the training processes left a result that cannot be read: result.json is not of version 1: {}",
        ),
    ],
)
def test_a_failure_is_the_one_that_this_process_would_have_had(
    lines: str, kind: type[BaseException], said: str, ask: Ask, stand_in: Callable[[str], None]
) -> None:
    stand_in(lines)
    request = ask(training=TWO)
    with pytest.raises(kind) as caught:
        launch.train_in_processes(request)
    text = str(caught.value)
    assert text.startswith(said)
    log = request.checkpoints / launch.LOG
    if "the reason" in lines:
        assert f"\n  the end of the log ({log}):\n    the reason" in text
        assert "the reason" in log.read_text()
        assert "run the same command again" in text


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_first_ctrl_c_asks_the_processes_to_stop(ask: Ask, stand_in: Callable[[str], None]) -> None:
    stand_in(
        """
        exchange.tell(Progress(1, 9, 0.5, 1.0, 1.0, None, 0.5))
        while not exchange.asked_to_stop():
            time.sleep(0.01)
        exchange.fail(0, "interrupted", "training stopped after step 1 of 9")
        """
    )
    request = ask(training=TWO, progress=lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(TrainingInterrupted, match="training stopped after step 1 of 9"):
        launch.train_in_processes(request)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_second_ctrl_c_ends_them_at_once(
    ask: Ask, stand_in: Callable[[str], None], tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    stand_in(
        f"""
        Path({str(pid)!r}).write_text(str(os.getpid()))
        for step in range(1, 3):
            exchange.tell(Progress(step, 9, 0.5, 1.0, 1.0, None, 0.5))
        os.read(0, 1)  # until the session lets go of it, as the real processes do
        """
    )
    request = ask(training=TWO, progress=lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        launch.train_in_processes(request)
    assert not isinstance(caught.value, TrainingInterrupted)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_process_ends_when_the_session_is_gone() -> None:
    import subprocess

    program = "import time; from pytest_finetune.training.processes import worker; worker._end_with_the_session(); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=120) == 1


@pytest.mark.parametrize(
    ("error", "kind", "text", "status"),
    [
        (TrainingError("a row is too long"), "training", "a row is too long", 1),
        (TrainingInterrupted("stopped after step 3"), "interrupted", "stopped after step 3", 0),
        (KeyError("pad"), "other", "KeyError: 'pad'", 1),
        (OSError(28, "No space left on device"), "disk", "OSError: [Errno 28] No space left on device", 1),
    ],
)
def test_a_process_writes_why_it_ends(
    error: BaseException,
    kind: str,
    text: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = worker_that_raises(error, tmp_path, monkeypatch)
    assert written == {"rank": 1, "kind": kind, "text": text, "status": status}
    assert ("Traceback" in capsys.readouterr().err) == (kind in ("other", "disk")), (
        "what nobody foresaw goes into the log"
    )


def test_a_process_without_memory_tells_the_facts_and_leaves_the_advice_to_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OutOfMemoryError("facts\nadvice")
    error.facts = "facts"
    written = worker_that_raises(error, tmp_path, monkeypatch)
    assert written == {"rank": 1, "kind": "memory", "text": "facts", "status": 1}


def worker_that_raises(
    error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, Any]:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(worker, "_train", fails)
    monkeypatch.setattr(worker, "_end_with_the_session", lambda: None)
    monkeypatch.setenv("RANK", "1")
    status = worker.main(str(folder))
    (failure,) = Exchange(folder).failures()
    return {"rank": failure.rank, "kind": failure.kind, "text": failure.text, "status": status}


def test_a_result_of_one_process_needs_no_launcher(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def must_not_run(*_: object) -> TrainingResult:
        raise AssertionError("one process was launched")

    from pytest_finetune.training import sft

    monkeypatch.setattr(sft, "train_in_processes", must_not_run)
    small = Training(
        max_seq_length=128, per_device_train_batch_size=4, gradient_accumulation_steps=1, max_steps=1
    )
    assert sft.train(ask(training=small)).notes == ()


def test_the_processes_ignore_the_signal_by_which_an_engine_announces_the_end_of_its_time() -> None:
    """It reaches every process of a job; who has started them hears it and asks them for a checkpoint."""
    told = [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGUSR2).name)"]
    with launch._ignored("SIGUSR2"):
        assert subprocess.check_output(told, text=True) == "SIG_IGN\n"
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
