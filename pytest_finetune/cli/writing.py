"""Files that a command writes for a person, never over one that is there."""

from __future__ import annotations

from pathlib import Path


def write_new(file: Path, data: bytes) -> bool:
    """Write a file that is not there; False, and nothing is touched, when there is one (or a link)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("xb") as stream:
            stream.write(data)
    except FileExistsError:
        return False
    return True
