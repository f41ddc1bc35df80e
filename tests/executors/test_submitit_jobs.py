"""What submitit's process does with the step that it runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_finetune.executors import submitit_jobs
from pytest_finetune.executors.protocol import Resources, Submission
from pytest_finetune.executors.submitit_jobs import Stepping, SubmititExecutor

pytest.importorskip("submitit")
SEALING = """
import signal, sys, time
def seal(*_):
    time.sleep(0.3)
    open("sealed", "w").close()
    sys.exit(130)
signal.signal(signal.SIGTERM, seal)
open("begun", "w").close()
time.sleep(60)
"""


def test_a_step_is_asked_to_seal_from_a_handler_and_waited_for(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """submitit's handler interrupts the very thread that waits for the step."""
    stepping, asked = Stepping((sys.executable, "-c", SEALING), str(tmp_path)), []

    def handler(*_: object) -> None:
        began = time.process_time()
        again = stepping.checkpoint()
        asked.append((again.function.words, (tmp_path / "sealed").exists(), time.process_time() - began < 5))

    before = signal.signal(signal.SIGUSR2, handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGUSR2, before))

    def signalled() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR2)

    threading.Thread(target=signalled).start()
    assert stepping() == 130
    assert asked == [(stepping.words, True, True)]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with what a stand-in for scontrol prints; each question is a line beside it."""
    answer = tmp_path / "job"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncat {answer}\n', encoding="utf-8")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return answer


@pytest.mark.parametrize(
    ("told", "state", "why"),
    [
        ("PENDING Reason=Resources", "waiting", "Resources"),
        ("PENDING Reason=None", "waiting", ""),
        ("PENDING Reason=JobHeldUser", "waiting", "JobHeldUser"),
        (
            "PENDING Reason=launch_failed_requeued_held",
            "ended",
            "(launch failed requeued held): job 7 was not",
        ),
        ("PENDING Reason=BadConstraints", "ended", "waits in Slurm for what will not come (BadConstraints)"),
        ("RUNNING Reason=None", "running", ""),
    ],
)
def test_a_job_that_slurm_holds_is_told_with_its_reason_and_ends_where_nobody_would_start_it(
    tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch, told: str, state: str, why: str
) -> None:
    executor = SubmititExecutor("slurm")
    step = Submission("ab" * 32, "s3://b", "the training", Resources(), tmp_path, tmp_path / "log")
    slurm.write_text(f"JobId=7 JobName=a UserId=me(0) JobState={told} Dependency=(null)\n", encoding="utf-8")
    monkeypatch.setattr(submitit_jobs, "_state", lambda job: told.split()[0])  # as accounting tells it
    for _ in "once", "and again":
        seen = executor.look(step, {"id": "7"})
        assert seen.state == state
        assert why in seen.why
        assert bool(seen.why) is bool(why)
        assert ("scancel 7, and run the same pytest again" in seen.do) is (state == "ended")
    asked = tmp_path / "asked"
    assert (asked.read_text("utf-8") if asked.exists() else "") == ("show job -o 7\n" * (state != "running"))
