"""What is said of a file that the experiment names and that is not there, and which one was probably meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_finetune.wording import nearest


def no_such_file(root: Path, relative: str, named: Sequence[str]) -> str:
    """Return what is wrong with a name of a file in `root`; `named` are the other files that are named."""
    path = root / relative
    if path.is_dir():
        return "that is a folder: name a file in it"
    return f"there is no such file in {str(root)!r}{_meant(root, relative, named)}"


def _meant(root: Path, relative: str, named: Sequence[str]) -> str:
    if "://" in relative:
        return ": fetch it and name the file, in a folder of the project"
    if relative.startswith("~"):
        return ": a path begins in the project and ~ is not read; copy or link the file to it"
    slashed = _slashed(relative)
    if slashed != relative:
        return (
            f"; write it with slashes: {slashed}"
            if (root / slashed).exists()
            else "; write a path with slashes"
        )
    folder = (root / relative).parent
    if not folder.is_dir():
        return ""
    beside = {(Path(relative).parent / file.name).as_posix() for file in folder.iterdir()}
    guess = nearest(relative, sorted(beside - set(named)))
    return f"; did you mean {guess!r}?" if guess else ""


def _slashed(relative: str) -> str:
    r"""Return a path with slashes; in double quotes YAML has read ``\t`` as a tab, ``\n`` as a line break.

    >>> _slashed("data\\rows.jsonl"), _slashed("data\train.jsonl")
    ('data/rows.jsonl', 'data/train.jsonl')
    """
    for read, written in {
        "\t": "/t",
        "\n": "/n",
        "\r": "/r",
        "\b": "/b",
        "\f": "/f",
        "\v": "/v",
        "\\": "/",
    }.items():
        relative = relative.replace(read, written)
    return relative
