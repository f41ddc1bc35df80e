"""Ask a driver's command line tool, for machines without its Python library."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

_TIMEOUT_S: Final = 10


def output(command: Sequence[str]) -> str | None:
    """Return what a command prints, or None when it is not installed, fails, or does not end."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
