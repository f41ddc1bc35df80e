"""Read the rows of Parquet and Arrow files; a row is known by its number."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.data.catalogue import finding
from pytest_finetune.data.findings import Finding
from pytest_finetune.data.shapes import NAMES
from pytest_finetune.errors import lacking
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    import pyarrow

PARQUET: Final = b"PAR1"
ARROW: Final = (b"ARROW1", b"\xff\xff\xff\xff")
"""How an Arrow file and an Arrow stream begin."""

_OURS: Final = frozenset(NAMES)
_WITH_A_TEXT: Final = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)


class Record(NamedTuple):
    """One row of a format without lines of JSON: its value, and its line, or its number where there are no lines."""

    value: JsonTree
    number: int


def read_columns(path: Path, label: str, *, after: int = 0) -> Iterator[Record | Finding]:
    """Yield the rows of a Parquet or an Arrow file called `label`, counted on from `after`."""
    if absent := lacking("pyarrow"):
        yield finding("data/unknown-format", f"reading its rows needs {absent}", file=label)
        return
    import pyarrow

    number = after
    try:
        for batch in _batches(path):
            names = _class_names(batch.schema)
            for value in batch.to_pylist():
                number += 1
                yield _plain(value, names, number, label)
    except (pyarrow.ArrowException, OSError) as error:
        read = f"{error} after row {number}"
        yield finding("data/damaged-archive", read, file=label, line=number + 1, fix="Write the file again.")


def _batches(path: Path) -> Iterator[pyarrow.RecordBatch]:
    from pyarrow import ipc, memory_map, parquet

    with path.open("rb") as file:
        head = file.read(len(ARROW[0]))
    if head.startswith(PARQUET):
        with parquet.ParquetFile(path) as table:
            yield from table.iter_batches()
    elif head.startswith(ARROW[0]):
        with memory_map(str(path)) as source, ipc.open_file(source) as blocks:
            yield from (blocks.get_batch(at) for at in range(blocks.num_record_batches))
    else:
        with memory_map(str(path)) as source, ipc.open_stream(source) as stream:
            yield from stream


def _class_names(schema: pyarrow.Schema) -> Mapping[str, Sequence[str]]:
    """Return the names of the classes that columns hold as numbers, as `datasets` notes them beside the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: feature["names"]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError):
        return {}


def _plain(value: JsonTree, names: Mapping[str, Sequence[str]], number: int, label: str) -> Record | Finding:
    """Return a row without its empty cells; what JSON has no word for is a finding under a name that we read."""
    row = {name: cell for name, cell in value.items() if cell is not None and cell == cell}
    for name, classes in names.items():
        if isinstance(cell := row.get(name), int):
            row[name] = classes[cell] if 0 <= cell < len(classes) else None
    odd = [name for name, cell in row.items() if not _is_json(cell)]
    for name in odd:
        kind = type(row[name]).__name__
        if name in _OURS:
            read = f"the column {name!r} holds a value of type {kind}: write it as text"
            return finding("data/row-shape", read, file=label, line=number)
        row[name] = str(row[name]) if isinstance(row[name], _WITH_A_TEXT) else kind
    return Record({name: cell for name, cell in row.items() if cell is not None}, number)


def _is_json(cell: object) -> bool:
    try:
        json.dumps(cell, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
