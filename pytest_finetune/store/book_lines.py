"""The lines of the book of looks: JSON with a checksum, each record known by a name of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_finetune.fingerprint import canonical_json

_CHECK_DIGITS: Final = 16


def line_of(record: Mapping[str, Any]) -> bytes:
    """Return a record as its line, without the line's end."""
    return canonical_json({**record, "check": _check(record)})


def record_of(line: bytes) -> dict[str, Any] | None:
    """Return one line's record, None when a bit of it is not as it was written."""
    try:
        record = json.loads(line)
        check = record.pop("check", None)
        sound = check == _check(record) and canonical_json({**record, "check": check}) == line
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None
    return record if sound else None


def name_of(record: Mapping[str, Any]) -> str:
    """Return what no other record is called: a look's identity, or the digest of a set of rows.

    >>> name_of({"set": "ab12", "rows": []}), name_of({"identity": "cd34"})
    ('rows-ab12', 'cd34')
    """
    return f"rows-{record['set']}" if "set" in record else str(record["identity"])


def read_lines(file: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yield every line of a file with its record; None for a damaged one. Raises OSError."""
    for line in filter(None, file.read_bytes().split(b"\n")):
        yield line, record_of(line)


def _check(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(record)).hexdigest()[:_CHECK_DIGITS]
