"""What a command has to say: one JSON tree, the same in lines, and whether the answer is yes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pytest_finetune.errors import FinetuneError
from pytest_finetune.wording import one_line
from pytest_finetune.yamlfile import Json


class CommandError(FinetuneError):
    """The command cannot be carried out as it was given; the message is one paragraph for the user."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a command.

    `lines` are for a reader, `tree` is for programs; `yes` is False when the question was answered with no, and
    `code` an exit code that says more than that;
    `warnings` go to standard error; `rows` are the table of commands that know ``--csv``, `page`
    is the markup of those that know ``--html``.
    """

    lines: Sequence[str]
    tree: Json
    yes: bool = True
    warnings: Sequence[str] = ()
    rows: Sequence[Json] = ()
    page: str = ""
    code: int | None = None

    def as_json(self) -> str:
        """Return the tree as ASCII, so that no character of it reaches a terminal as a command."""
        return json.dumps(self.tree, indent=2)

    def as_csv(self) -> str:
        """Return the rows as CSV with a header; texts stand on one line each."""
        out = io.StringIO()
        columns = list(self.rows[0]) if self.rows else []
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow(
                {name: one_line(value) if isinstance(value, str) else value for name, value in row.items()}
            )
        return out.getvalue().rstrip("\n")


def columns(
    head: Sequence[str], rows: Sequence[Sequence[object]], *, right: Collection[int] = (), indent: int = 2
) -> list[str]:
    """Lay rows out under a head; the columns in `right` are flush right, cells are put on one line.

    >>> columns(["label", "rows"], [["low", 12], ["high", 3]], right=[1])
    ['  label  rows', '  low      12', '  high      3']
    """
    cells = [[one_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        placed = (
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append((" " * indent + "  ".join(placed)).rstrip())
    return lines
