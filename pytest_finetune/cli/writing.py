"""Files that a command writes for a person, never over one that is there."""

from __future__ import annotations

from pathlib import Path


def write_new(file: Path, data: bytes) -> bool:
    """Write a file that is not there; False, and nothing is touched, when there is one (or a link).

    Where it cannot be written whole, no part of it stays behind: the next try would take that for the person's own.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        stream = file.open("xb")
    except FileExistsError:
        return False
    try:
        with stream:
            stream.write(data)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return True
