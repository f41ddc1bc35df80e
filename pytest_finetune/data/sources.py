"""Open a file of rows in the format that it has: JSON lines, a JSON array, CSV, TSV, Parquet or Arrow.

The format is told by the file's first bytes and, for CSV and TSV, by its name. What is not understood is one finding
that says what the file is and how to bring it. A data set of the `datasets` library is read where a file is named.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_finetune.data.catalogue import finding
from pytest_finetune.data.columnar import ARROW, PARQUET, Record, read_columns
from pytest_finetune.data.data_sets import is_data_set, read_data_set
from pytest_finetune.data.findings import Finding
from pytest_finetune.data.lines import PACKED, Line, decoded, read_lines
from pytest_finetune.data.tables import read_table
from pytest_finetune.wording import counted

_HEAD: Final = 16 * 1024
_COLUMNS: Final = (PARQUET, *ARROW)
_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_FOREIGN: Final = {
    b"PK\x03\x04": "an Excel workbook or a zip archive: save its sheet as CSV (UTF-8), or unpack it",
    b"SQLite format 3": "an SQLite database: export the table as CSV",
    b"\x80\x04\x95": "a pickle, which is never opened: write it as JSON lines",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save its sheet as CSV (UTF-8)",
}
_ARRAY: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*[{\]]")
_OBJECT: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{[ \t\r]*\n")
_SPACE: Final = re.compile(r"[ \t\r\n]*")


def read_source(path: Path, label: str, max_line_bytes: int) -> Iterator[Line | Record | Finding]:
    """Yield the rows of a file, unread (`Line`, JSON) or read (`Record`), and findings about it, called `label`.

    Raises OSErrors of opening.
    """
    if is_data_set(path, label):
        yield from read_data_set(path, label)
        return
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if trouble := _trouble(head):
        yield finding(*trouble, file=label)
    elif head.startswith(_COLUMNS):
        yield from read_columns(path, label)
    elif path.suffix.lower() in (".csv", ".tsv", ".tab"):
        usual = "," if path.suffix.lower() == ".csv" else "\t"
        yield from read_table(path.read_bytes(), label, usual, max_line_bytes)
    elif _ARRAY.match(head):
        yield from _array(path.read_bytes(), label, max_line_bytes)
    elif _OBJECT.match(head):
        yield _one_object(path.read_bytes(), label)
    else:
        yield from read_lines(path, label, max_line_bytes)


def _trouble(head: bytes) -> tuple[str, str] | None:
    """Return the rule that the first bytes break, and what they are."""
    zeros = [place for place in range(4) if head[place : place + 1] == b"\0"]
    if head.startswith(_UTF16) or zeros in ([0, 2], [1, 3]):
        return "data/utf-16", "two bytes a character (UTF-16), as some Windows programs save text"
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            return "data/unknown-format", what
    if b"\r" in head and b"\n" not in head and not head.startswith((*_COLUMNS, *PACKED)):
        return "data/cr-only", "lines end with CR alone, so that the file is one line"
    return None


def _array(data: bytes, label: str, limit: int) -> Iterator[Line | Finding]:
    """Cut a JSON array into its elements, each with the line that it begins on."""
    text = decoded(data, label)
    if isinstance(text, Finding):
        yield text
        return
    scan = json.JSONDecoder().raw_decode
    at = text.index("[") + 1
    number = 1 + text.count("\n", 0, at)
    while (begin := _skip(text, at)) < len(text) and text[begin] != "]":
        number += text.count("\n", at, begin)
        try:
            end = scan(text, begin)[1]
        except (ValueError, RecursionError) as error:
            yield finding("data/invalid-json", f"an element of the list: {error}", file=label, line=number)
            return
        size = len(text[begin:end].encode("utf-8", "replace"))
        if size > limit:
            yield finding("data/long-line", f"{size} bytes (limit {limit})", file=label, line=number)
        else:
            yield Line(text[begin:end], number, begin, ended=True)
        at = _skip(text, end)
        number += text.count("\n", begin, at)
        if text.startswith(",", at):
            at += 1
        elif not text.startswith("]", at):
            break
    if not text.startswith("]", _skip(text, at)):
        yield finding("data/truncated-line", "the list has no end: it was cut", file=label, line=number)


def _skip(text: str, at: int) -> int:
    """Return where the white space that begins at a position ends."""
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _one_object(data: bytes, label: str) -> Finding:
    """Tell what to do with one JSON object over many lines: a list in it is what is wanted."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    lists = (
        {key: rows for key, rows in value.items() if isinstance(rows, list)}
        if isinstance(value, dict)
        else {}
    )
    if lists:
        key, rows = max(lists.items(), key=lambda item: len(item[1]))
        held = counted(len(rows), "row")
        read = f"one JSON object whose key {key!r} holds {held}: write that list alone (`jq .{key}`)"
    else:
        read = "JSON objects over several lines: write each on one line (`jq -c .`), or all in one list"
    return finding("data/unknown-format", read, file=label, line=1)
