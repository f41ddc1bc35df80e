"""The training's progress: live on a terminal although pytest captures the output, silent anywhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project

STEP = """\
    from pytest_finetune.training.request import Progress
    request.progress(Progress(3, 8, 0.25, 1.5, 2.5, 900.0, 0.5, 3 * 2**29))
    called("train")
"""


def with_progress(project: Project) -> None:
    """Let the trainer report one step."""
    text = (project.path / "conftest.py").read_text()
    project.write({"conftest.py": text.replace('    called("train")\n', STEP, 1)})


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("flags", "before"),
    [((), b""), (("-s",), b""), (("-n", "1"), b"[gw0] ")],
    ids=["captured", "not captured", "xdist"],
)
def test_a_terminal_shows_step_loss_time_left_and_memory(
    project: Project, flags: tuple[str, ...], before: bytes
) -> None:
    with_progress(project)
    seen = on_a_terminal(project, "--finetune", *flags)
    assert before + b"finetune: training step 3/8 (38%)  loss 0.250  900 tokens/s  2 s left  1.5 GiB" in seen


def on_a_terminal(project: Project, *flags: str) -> bytes:
    """Run pytest on a pseudo-terminal and return what it showed."""
    import pty

    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *flags],
        cwd=project.path,
        stdout=other,
        stderr=other,
        stdin=other,
        env={**os.environ, "COLUMNS": "120"},
    )
    os.close(other)
    seen = b""
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:  # Linux: the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(main)
    assert process.wait(60) == 0
    return seen


def test_a_log_is_told_of_what_takes_long_and_of_nothing_else(project: Project) -> None:
    with_progress(project)
    slow = (
        (project.path / "conftest.py")
        .read_text()
        .replace('    called("train")\n', '    import time\n    time.sleep(1.5)\n    called("train")\n', 1)
    )
    shorter = (
        "import pytest_finetune.suite.heartbeat as beat\nbeat.Heartbeat.__init__.__defaults__ = (1.0,)\n"
    )
    project.write({"conftest.py": shorter + slow})
    result = project.run("--finetune", subprocess=True)
    assert result.ret == 0
    told = [line for line in result.outlines if line.startswith("finetune: ")]
    assert told[0].startswith("finetune: training step 3/8 (38%)  loss 0.250")
    assert not [line for line in told if "training step" not in line]
