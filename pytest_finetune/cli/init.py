"""``pytest-finetune init``: a small project to own, file by file, never over a file that is there."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from pytest_finetune.cli.answer import Answer, CommandError

HELP: Final = "write a project to own: experiment, contract, sample rows and four short test files"
DESCRIPTION: Final = "Write the files of a small project. A file that exists is left as it is, and named."
SUFFIX: Final = ".starter"
_CONFIGURATION: Final = "pytest.ini"
_CONFIGURED_BY: Final = (
    "pytest.toml",
    ".pytest.toml",
    "pytest.ini",
    ".pytest.ini",
    "pyproject.toml",
    "tox.ini",
    "setup.cfg",
)
_NEXT: Final = (
    "next, in this order:",
    "  finetune.yaml     answer the charter's open questions, choose the base model",
    "  data/, eval/      put your rows in place of the samples, then raise the counts in data/contract.yaml",
    "  pytest            checks charter, rows and memory; trains nothing",
    "  pytest-finetune power     which gain the held-out file can show",
    "  pytest --finetune         trains, judges and writes the record",
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where to (default: the current folder)",
    )


def run(args: argparse.Namespace) -> Answer:
    """Write what is missing."""
    folder: Path = args.folder
    written, existing = [], []
    configured = next((name for name in _CONFIGURED_BY if (folder / name).exists()), None)
    try:
        for relative, source in starter_files():
            if relative == _CONFIGURATION and configured is not None:
                existing.append(f"{configured} (pytest's settings stay there)")
            elif write_new(folder / relative, source.read_bytes()):
                written.append(relative)
            else:
                existing.append(relative)
    except OSError as error:
        place = error.filename or folder
        raise CommandError(f"cannot write {str(place)!r}: {error.strerror or error}") from None
    lines = [*(f"wrote   {name}" for name in written), *(f"exists  {name}" for name in existing), "", *_NEXT]
    return Answer(lines, {"folder": str(folder), "written": written, "existing": existing})


def starter_files() -> Iterator[tuple[str, Traversable]]:
    """Yield the path that each file of the starter project gets, and where its text stands in the package."""
    yield from _walk(files("pytest_finetune.cli") / "starter", "")


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for child in sorted(folder.iterdir(), key=lambda found: found.name):
        if child.is_dir():
            yield from _walk(child, f"{prefix}{child.name}/")
        elif child.name.endswith(SUFFIX):
            yield prefix + child.name.removesuffix(SUFFIX), child


def write_new(file: Path, data: bytes) -> bool:
    """Write a file that is not there; False, and nothing is touched, when there is one (or a link)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("xb") as stream:
            stream.write(data)
    except FileExistsError:
        return False
    return True
