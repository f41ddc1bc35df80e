"""Read a CSV or TSV file as spreadsheets write it: a head, then a row on the line where it begins."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pytest_finetune.data.catalogue import finding
from pytest_finetune.data.columnar import Record
from pytest_finetune.data.findings import Finding
from pytest_finetune.data.lines import decoded
from pytest_finetune.wording import counted
from pytest_finetune.yamlfile import JsonTree

_NESTED: Final = frozenset({"messages", "conversations", "tools", "history", "tags"})
"""Columns of a table whose cells hold JSON."""
_EXCELS: Final = re.compile(r"sep=([^\r\n])\r?\n")
"""The line before the head by which Excel says what separates its columns."""


class _Cells(NamedTuple):
    """One row of a table as it stands there, and the line where it begins."""

    line: int
    cells: Sequence[str]


def read_table(data: bytes, label: str, usual: str, limit: int) -> Iterator[Record | Finding]:
    """Yield the rows of a table with a head; `usual` separates its columns, `limit` is the most bytes of a row."""
    text = decoded(data, label)
    if isinstance(text, Finding):
        yield text
        return
    named = _EXCELS.match(text)
    delimiter = named[1] if named else _delimiter(text, usual)
    cells = _rows(text, named.end() if named else 0, delimiter, label)
    head = next(cells, None)
    if not isinstance(head, _Cells):
        yield head or finding("data/empty-file", f"{len(data)} bytes", file=label)
        return
    columns = [cell.strip() for cell in head.cells]
    rows = list(cells)
    blank = {
        at
        for at, name in enumerate(columns)
        if not name
        and not any(isinstance(row, _Cells) and "".join(row.cells[at : at + 1]).strip() for row in rows)
    }
    names = [name for at, name in enumerate(columns) if at not in blank]
    if len(set(names)) < len(names) or not all(names):
        yield finding(
            "data/table", f"its columns are {', '.join(map(repr, columns))}", file=label, line=head.line
        )
        return
    for row in rows:
        if isinstance(row, Finding):
            yield row
        elif len(row.cells) != len(columns):
            held, wanted = counted(len(row.cells), "cell"), counted(len(columns), "column")
            read = f"{held} under {wanted} (separator {delimiter!r})"
            yield finding("data/table", read, file=label, line=row.line)
        elif (size := sum(len(cell.encode("utf-8", "replace")) for cell in row.cells)) > limit:
            yield finding("data/long-line", f"{size} bytes (limit {limit})", file=label, line=row.line)
        else:
            kept = (cell for at, cell in enumerate(row.cells) if at not in blank)
            yield _record(dict(zip(names, kept, strict=True)), row.line, label)


def _rows(text: str, start: int, delimiter: str, label: str) -> Iterator[_Cells | Finding]:
    """Yield what each row holds; where the reader loses its way, say how many lines that leaves unread."""
    # The limit of the library is that of a cell, and a finding names a row that is too long.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text[start:], newline=""), delimiter=delimiter, strict=True)
    before = text.count("\n", 0, start)
    line = before + 1
    try:
        for cells in reader:
            begin, line = line, before + reader.line_num + 1
            if cells:
                yield _Cells(begin, cells)
    except csv.Error as error:
        lost = len(text.splitlines()) - line + 1
        why = "a quote that opens here is not closed" if "end of data" in str(error) else str(error)
        read = f"{why} (separator {delimiter!r}), so that {counted(lost, 'line')} from here on cannot be read"
        yield finding("data/table", read, file=label, line=line)


def _delimiter(text: str, usual: str) -> str:
    """Return what separates the columns of the head: a comma or a tab by the file's name, else what it has most of."""
    head = text.partition("\n")[0]
    if usual in head:
        return usual
    return max(",;\t|", key=head.count)


def _record(row: Mapping[str, str], line: int, label: str) -> Record | Finding:
    """Return a row of a table; JSON in the cells of conversations, tools and tags is read."""
    value: JsonTree = {}
    for name, cell in row.items():
        if name in _NESTED:
            if not cell:
                continue
            try:
                value[name] = json.loads(cell)
            except (ValueError, RecursionError) as error:
                read = f"the column {name!r} holds no JSON: {error}"
                return finding("data/invalid-json", read, file=label, line=line)
        else:
            value[name] = cell
    return Record(value, line)
