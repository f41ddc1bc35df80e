"""What submitit's process does with the step that it runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_finetune.executors.submitit_jobs import Stepping

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
