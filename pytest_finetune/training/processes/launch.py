"""Train in several processes under ``accelerate launch``, and tell and raise here what a training in this one would."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Final, Never

from pytest_finetune.training.base import source_of
from pytest_finetune.training.memory_error import OutOfMemoryError, advice
from pytest_finetune.training.processes.exchange import Exchange, Failure
from pytest_finetune.training.request import (
    Progress,
    TrainingError,
    TrainingInterrupted,
    TrainingRequest,
    TrainingResult,
)
from pytest_finetune.training.surroundings import asked_to_stop

LOG: Final = "processes.log"
_LEASED: Final = "under pytest -n each worker has one card of its own: train this experiment without -n"
_LOOK_EVERY_S: Final = 0.1
_LAST_LINES: Final = 15
# Variables by which another launcher, or accelerate's own configuration, would reach into this training.
_OTHERS: Final = ("ACCELERATE_", "FSDP_", "PET_", "TORCHELASTIC_", "OMPI_", "PMI_", "MV2_", "GROUP_", "ROLE_")
_OTHER_NAMES: Final = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_EXITS: Final = re.compile(r"rank\s*: (\d+) \(local_rank: \d+\)\s+exitcode\s*: (-?\d+)")


def train_in_processes(request: TrainingRequest) -> TrainingResult:
    """Train as `train` does, in ``training.launcher.processes`` processes; they end with this call, whatever happens.

    Raises TrainingError for what the user can mend, and with the end of the log for what nobody foresaw;
    TrainingInterrupted after Ctrl-C, once a checkpoint lies there.
    """
    processes = request.experiment.training.launcher.processes
    devices = devices_of(request.device, processes, visible_cards(request.device))
    started = time.monotonic()
    log = request.checkpoints / LOG
    request.checkpoints.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pytest-finetune-") as private:  # mode 0700
        exchange = Exchange(Path(private))
        exchange.ask(request, devices)
        _run(request, exchange, log)
        failures = exchange.failures()
        if failures:
            _raise(request, failures, log)
        result = _result(request, exchange)
    if result is None:
        died = _killed(log, processes) or f"the {processes} training processes ended without a result"
        raise TrainingError(_ended(log, died))
    log.unlink(missing_ok=True)
    return dataclasses.replace(result, seconds=time.monotonic() - started)


def devices_of(device: str, processes: int, visible: int) -> tuple[str, ...]:
    """Return the device of each process: the CPU for all of them, or a card for each.

    `visible` is the number of cards that this process sees. Raises TrainingError when they do not suffice.

    >>> devices_of("cuda", 2, visible=4)
    ('cuda:0', 'cuda:1')
    """
    if device == "cpu":
        return ("cpu",) * processes
    asked = f"training.launcher asks for {processes} processes"
    if not device.startswith("cuda"):
        raise TrainingError(f"{asked}, which run on NVIDIA and AMD cards or on the CPU, not on {device!r}")
    if device != "cuda":
        raise TrainingError(
            f"{asked} and the device is {device}, one card: write --finetune-device=cuda, and CUDA_VISIBLE_DEVICES "
            f"for the cards to take\n  {_LEASED}"
        )
    if processes > visible:
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        seen = f"there is {visible}" if chosen is None else f"CUDA_VISIBLE_DEVICES={chosen} shows {visible}"
        fewer = max(1, visible)
        raise TrainingError(
            f"{asked}, one a card, and {seen}: write processes: {fewer} "
            f"(--finetune-set training.launcher.processes={fewer})"
            + (f"\n  {_LEASED}" if visible == 1 else "")
        )
    return tuple(f"cuda:{number}" for number in range(processes))


def visible_cards(device: str) -> int:
    """Return how many cards this process sees; 0 where the training computes on none."""
    if not device.startswith("cuda"):
        return 0
    import torch

    return torch.cuda.device_count()


def _run(request: TrainingRequest, exchange: Exchange, log: Path) -> None:
    """Run the processes to their end and hand on what they tell."""
    offset = 0
    with asked_to_stop() as stop, log.open("wb") as out, _launched(request, exchange, out) as launcher:
        running = True
        while running:
            running = launcher.poll() is None
            if stop.is_set():
                exchange.ask_to_stop()
            heard: list[tuple[Progress, int]] = []
            with contextlib.suppress(ValueError):  # a line that is no progress is no reason to stop
                heard.extend(exchange.told(offset))
            for progress, offset in heard:  # noqa: B007 (read in the next round)
                request.progress(progress)
            if running:
                time.sleep(_LOOK_EVERY_S)


@contextlib.contextmanager
def _launched(
    request: TrainingRequest, exchange: Exchange, log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the launcher in a session of its own, out of reach of the terminal's Ctrl-C; end it with the block.

    The processes hold the other end of its standard input and end when that closes: also when this process is killed.
    """
    processes = request.experiment.training.launcher.processes
    local = source_of(request.experiment, request.base).local
    with _ignored("SIGUSR2"):
        launcher = subprocess.Popen(
            _command(exchange.folder, processes),
            env=_environment(os.environ, exchange.folder, local, processes),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    assert launcher.stdin is not None
    try:
        yield launcher
    finally:
        launcher.stdin.close()
        _await_end(launcher)


@contextlib.contextmanager
def _ignored(name: str) -> Iterator[None]:
    """Start processes that ignore a signal: Slurm sends it to every process of a job before its time is up.

    Whoever started them hears it and asks them for a checkpoint; themselves they would be killed by it.
    """
    number = getattr(signal, name, None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def _await_end(launcher: subprocess.Popen[bytes]) -> None:
    """Wait until the launcher is gone, which its processes let it; one that does not go is ended."""
    harder = iter((launcher.terminate, launcher.kill))
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(timeout=20)
            return
        next(harder, launcher.kill)()


def _command(folder: Path, processes: int) -> list[str]:
    """Return the command line; the configuration is the training's own, never that of the user's account."""
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",  # also on CPUs: with "--cpu" accelerate starts one process
        "num_machines": 1,
        "num_processes": processes,
        "mixed_precision": "no",  # the trainer's arguments say it
        "debug": False,
    }
    (folder / "accelerate.json").write_text(json.dumps(config), encoding="utf-8")
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(folder / "accelerate.json"),
    ]
    # They meet through a file: no port is opened for it.
    meet = ["--rdzv_backend", "c10d", "--rdzv_conf", "store_type=file", "--dynamo_backend", "no"]
    # Otherwise each launch leaves empty folders in the machine's temporary folder.
    logs = ["--log_dir", str(folder / "logs")]
    return [*launch, *meet, *logs, "-m", "pytest_finetune.training.processes.worker", str(folder)]


def _environment(ours: Mapping[str, str], folder: Path, offline: bool, processes: int) -> dict[str, str]:
    """Return the environment of the processes: ours without other launchers' variables, and nothing but loopback."""
    kept = {
        name: value
        for name, value in ours.items()
        if not name.startswith(_OTHERS) and name not in _OTHER_NAMES
    }
    package = str(Path(__file__).parents[3])
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, (package, kept.get("PYTHONPATH")))),
        "PYTHONSAFEPATH": "1",  # a file of the project must not take a module's place
        "PET_RDZV_ENDPOINT": str(folder / "launcher"),
        "PET_LOCAL_ADDR": "127.0.0.1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **({"HF_HUB_OFFLINE": "1"} if offline else {}),
    }


def _result(request: TrainingRequest, exchange: Exchange) -> TrainingResult | None:
    try:
        return exchange.result(request.folder)
    except ValueError as error:
        raise TrainingError(f"the training processes left a result that cannot be read: {error}") from None


def _raise(request: TrainingRequest, failures: list[Failure], log: Path) -> Never:
    """Raise what a training in this process would have raised, by the failure that explains the others."""
    known = [failure for failure in failures if failure.kind != "other"]
    first = known[0] if known else failures[0]
    processes = request.experiment.training.launcher.processes
    if first.kind == "interrupted":
        raise TrainingInterrupted(first.text)
    if first.kind == "memory":
        raise OutOfMemoryError(f"{first.text}\n{advice(request)}")
    if first.kind == "disk":
        raise OSError(errno.ENOSPC, first.text)
    if first.kind == "training":
        raise TrainingError(first.text)
    killed = _killed(log, processes)
    raise TrainingError(_ended(log, killed or f"process {first.rank} of {processes} failed: {first.text}"))


def _killed(log: Path, processes: int) -> str | None:
    """Say which process was ended by a signal from outside; the launcher itself ends the others by SIGTERM."""
    for rank, code in _EXITS.findall(_text(log)):
        if int(code) < 0 and -int(code) != signal.SIGTERM:
            name = signal.Signals(-int(code)).name
            hint = " (the system does so when memory runs out)" if name == "SIGKILL" else ""
            return f"process {rank} of {processes} was ended by {name}{hint}"
    return None


def _ended(log: Path, what: str) -> str:
    lines = [f"    {line}" for line in _text(log).splitlines() if line.strip()][-_LAST_LINES:]
    return "\n".join(
        [
            f"{what}, and the training ended with it",
            "  run the same command again: it goes on from the last whole checkpoint",
            f"  the end of the log ({log}):",
            *lines,
        ]
    )


def _text(log: Path) -> str:
    with contextlib.suppress(OSError):
        return log.read_text(encoding="utf-8", errors="replace")
    return ""
