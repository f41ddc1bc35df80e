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
    request.progress(Progress(3, 8, 0.25, 1.5, 2.5, 900.0, 0.5))
    called("train")
"""


def with_progress(project: Project) -> None:
    """Let the trainer report one step."""
    text = (project.path / "conftest.py").read_text()
    project.write({"conftest.py": text.replace('    called("train")\n', STEP, 1)})


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_step_loss_and_time_left_while_output_is_captured(project: Project) -> None:
    import pty

    with_progress(project)
    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--finetune"],
        cwd=project.path,
        stdout=other,
        stderr=other,
        stdin=other,
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
    assert b"finetune: training step 3/8 (38%)  loss 0.250  900 tokens/s  2 s left" in seen


def test_what_is_no_terminal_stays_silent(project: Project) -> None:
    with_progress(project)
    result = project.run("--finetune", subprocess=True)
    assert result.ret == 0
    assert "training step" not in result.stdout.str() + result.stderr.str()
