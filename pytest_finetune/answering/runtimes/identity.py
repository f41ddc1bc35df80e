"""What can be known of a command before it runs: the package and version behind it, or the digest of its file."""

from __future__ import annotations

import hashlib
import shutil
import sys
from importlib import metadata
from pathlib import Path


def command_identity(word: str) -> dict[str, str]:
    """Return the version of a command by its first word.

    A console script of this environment is named by its distribution, any other file by its SHA-256; a word
    that leads to no file says nothing.
    """
    found = shutil.which(word)
    if found is None:
        return {}
    path = Path(found)
    if path.parent.resolve() == Path(sys.executable).parent.resolve():
        for script in metadata.entry_points(group="console_scripts", name=path.stem):
            if script.dist is not None:
                return {"version": f"{script.dist.name} {script.dist.version}"}
    with path.open("rb") as file:
        return {"executable_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
