"""``pytest-finetune show``: what the last run, or a named one, came to."""

from __future__ import annotations

import argparse
import json
import shutil
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_finetune.cli import arguments
from pytest_finetune.cli.answer import Answer, CommandError
from pytest_finetune.cli.project import folder_of
from pytest_finetune.record.partial import PARTIAL, why_partial
from pytest_finetune.record.views.terminal import summary_lines
from pytest_finetune.record.write import earlier
from pytest_finetune.yamlfile import Json

HELP: Final = "the last record in a few lines, or its page in the browser"
DESCRIPTION: Final = (
    "Show the record that the last `pytest --finetune` wrote: its summary here, its page with --open."
)
RECORD: Final = "finetune-record"
"""Where records are written; the same as in `pytest_finetune.suite.options`, which imports pytest."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument(
        "record",
        nargs="?",
        type=Path,
        default=Path(RECORD),
        metavar="RECORD",
        help=f"the folder of the record, relative to the project (default: {RECORD})",
    )
    command.add_argument("--open", action="store_true", help="open its page in the browser")
    arguments.add_root(command)
    arguments.add_json(command)


def run(args: argparse.Namespace) -> Answer:
    """Sum a record up; with ``--open`` hand its page to the browser."""
    folder = folder_of(args) / args.record
    record = _read(folder)
    page = folder / "report.html"
    if args.open:
        if not page.is_file():
            raise CommandError(f"{folder}: this record has no page (report.html)")
        if not webbrowser.open(page.resolve().as_uri()):
            raise CommandError(f"no browser could be started; the page is {page.resolve()}")
    width = shutil.get_terminal_size().columns
    lines = [line.text for line in summary_lines(record, str(args.record), width)]
    return Answer([*lines, *_later(folder, args.record, record)], record)


def _later(folder: Path, named: Path, record: Json) -> Iterator[str]:
    """Name the record of a later run that was not whole, and so lies beside this one."""
    beside = earlier(folder / PARTIAL / "record.json")
    if str(beside.get("created", "")) > str(record.get("created", "")):
        yield f"a later run was not whole ({why_partial(beside)}): pytest-finetune show {named / PARTIAL}"


def _read(folder: Path) -> Json:
    file = folder / "record.json"
    try:
        record = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise CommandError(f"{folder}: there is no record; `pytest --finetune` writes one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CommandError(f"{file} cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise CommandError(f"{file} is no record of pytest-finetune")
    return record
