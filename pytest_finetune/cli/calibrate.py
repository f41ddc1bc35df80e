"""``pytest-finetune calibrate``: predicted beside measured memory on the card that is here, as rows to send in."""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pytest_finetune.cli import arguments, calibration
from pytest_finetune.cli.answer import Answer, CommandError, columns
from pytest_finetune.cli.calibration import FIELDS, GRID, Cell
from pytest_finetune.errors import lacking
from pytest_finetune.memory.hardware.detect import detect
from pytest_finetune.wording import counted, size

HELP: Final = "predicted beside measured memory on the card that is here"
DESCRIPTION: Final = (
    "Train two steps of models with random weights and known shapes, and append to a CSV file what was predicted and "
    "what the card measured. Nothing is downloaded and nothing is sent: the file is yours to send in."
)

NEEDED: Final = (
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "bitsandbytes",
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command.add_argument(
        "--into", type=Path, default=Path("cards.csv"), metavar="FILE", help="the table (default: cards.csv)"
    )
    command.add_argument(
        "--shape",
        action="append",
        choices=sorted({cell.shape for cell in GRID}),
        help="only this shape; may be given more than once",
    )
    arguments.add_json(command)


def run(args: argparse.Namespace) -> Answer:
    """Compare every cell of the grid, and answer with no where a cell measured nothing."""
    card = detect("auto", Path.cwd(), headroom=0.0)
    if card.device != "cuda":
        raise CommandError(
            f"no card is here that counts its memory ({card.name}): nothing was measured; run it where the card is"
        )
    if absent := lacking(*NEEDED):
        raise CommandError(f"calibrate trains with {absent}")
    check_table(args.into)
    cells = [cell for cell in GRID if not args.shape or cell.shape in args.shape]
    rows = []
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        for cell in cells:
            row = calibration.compare(cell, card, Path(folder), calibration.run_session)
            append(args.into, [row])  # at once: what was measured is kept, whatever the next cell does
            rows.append(row)
    measured = [row for row in rows if row["measured_peak_bytes"] is not None]
    lines = [
        *_lines(cells, rows),
        "",
        f"{counted(len(measured), 'row')} with a measurement, appended to {args.into}",
    ]
    tree = {"card": card.name, "file": str(args.into), "rows": rows}
    return Answer(lines, tree, yes=len(measured) == len(rows))


def check_table(file: Path) -> None:
    """Raise CommandError when the file is there and is another table."""
    if not file.exists():
        return
    with file.open(newline="", encoding="utf-8") as stream:
        head = next(csv.reader(stream), [])
    if head != list(FIELDS):
        raise CommandError(f"{str(file)!r} is another table: give --into a file of its own")


def append(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Append rows, under the heading where the file is new."""
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def _lines(cells: Sequence[Cell], rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    head = ("shape", "method", "batch", "tokens", "predicted", "measured", "error")
    yield from columns(
        head, [_cells(cell, row) for cell, row in zip(cells, rows, strict=True)], right=(2, 3, 4, 5, 6)
    )


def _cells(cell: Cell, row: dict[str, Any]) -> tuple[str, ...]:
    predicted, measured = row["predicted_peak_bytes"], row["measured_peak_bytes"]
    error = f"{predicted / measured - 1:+.1%}" if predicted and measured else "-"
    said = [size(predicted) if predicted else "not planned", size(measured) if measured else "not measured"]
    return cell.shape, cell.method, str(row["batch"]), str(row["tokens"] or "?"), *said, error
