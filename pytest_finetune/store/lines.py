"""Append-only books of JSON lines, each with its own checksum: one file for each machine that writes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from pytest_finetune.fingerprint import canonical_json, digest, sha256_hex
from pytest_finetune.store.context import StoreContext
from pytest_finetune.store.disk import explained, host_name
from pytest_finetune.store.lock import whole_file
from pytest_finetune.store.shared.upstream import UpstreamError

_BROUGHT: Final = "brought.jsonl"
_CHECK_DIGITS: Final = 16

Record = dict[str, Any]
"""One line of a book."""


class Lines:
    """The lines of one book of a store; a damaged one is passed over with a warning.

    Behind a store that is shared, the records of other machines are brought over, and ours are sent there. Files only
    grow, and are read on from where they were read to: a record stays the same object as long as its file is that one.
    """

    def __init__(self, context: StoreContext, book: str, one: str) -> None:
        self._context = context
        self._book = book
        self._one = one
        self._folder = context.root / book
        self.file = self._folder / f"{host_name()}.jsonl"
        self._read: dict[Path, _Read] = {}

    def here(self) -> list[Record]:
        """Return the sound records of this store's own folder."""
        return [record for file in self._files() for record in self._records(file)]

    def everywhere(self) -> list[Record]:
        """Return the sound records of every machine; UpstreamError when the others cannot be reached."""
        records = self.here()
        return records if self._context.upstream is None else records + self._bring(records)

    @contextmanager
    def writing(self, action: str) -> Iterator[BinaryIO]:
        """Hold the file to which this machine appends, locked; StoreError when it cannot be written."""
        with explained(action, self.file):
            self._context.prepare()
            self._folder.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab+") as stream, whole_file(stream.fileno()):
                yield stream

    def _bring(self, records: Sequence[Record]) -> list[Record]:
        """Return the records that others have shared and that are not here, and keep them."""
        upstream = self._context.upstream
        if upstream is None:
            return []
        new = sorted(upstream.line_names(self._book) - {name_of(record) for record in records})
        lines = [(line, record_of(line)) for line in upstream.lines(self._book, new)] if new else []
        sound = [(line, record) for line, record in lines if record is not None]
        if len(sound) < len(lines):
            self._context.warn(
                f"store: {_damaged(len(lines) - len(sound))} in the {self._book} at {upstream.name} passed over; "
                f"{self._book} may be missing"
            )
        with contextlib.suppress(OSError):  # a book that cannot be kept here is brought again
            self._keep([line for line, _ in sound])
        return [record for _, record in sound]

    def _keep(self, lines: Sequence[bytes]) -> None:
        if lines:
            self._context.prepare()
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / _BROUGHT).open("ab+") as stream, whole_file(stream.fileno()):
                append(stream, lines)

    def send(self) -> None:
        """Share what was written down here and is not there yet, in the order in which it was written."""
        upstream = self._context.upstream
        if upstream is None or upstream.readonly:
            return
        try:
            there = upstream.line_names(self._book)
            ours = {name_of(record): record for record in self._records(self.file)}
            new = {name: line_of(record) for name, record in ours.items() if name not in there}
            upstream.add_lines(self._book, new)
        except (UpstreamError, OSError) as error:
            self._context.warn(
                f"store: {self._one} on this machine only: {error}; the next run here shares it"
            )

    def _files(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return sorted(file for file in self._folder.iterdir() if file.suffix == ".jsonl")
        return []

    def _records(self, file: Path) -> list[Record]:
        try:
            read = self._read[file] = _read_on(file, self._read.get(file))
        except OSError as error:
            self._context.warn(
                f"store: {self._book} in {file} cannot be read ({error.strerror}); they are not counted"
            )
            return []
        records, damaged = _sound(read.rest)
        if damaged := damaged + read.damaged:
            self._context.warn(
                f"store: {_damaged(damaged)} in {file} passed over; {self._book} may be missing"
            )
        return read.records + records


@dataclass(frozen=True, slots=True)
class _Read:
    """A file as it was read: its identity, its whole lines, how many of them were damaged, and what has no end yet."""

    identity: tuple[int, int, int]
    end: int
    records: list[Record]
    damaged: int
    rest: bytes


def _read_on(file: Path, before: _Read | None) -> _Read:
    """Read the lines that a file has by now; those of before again only when it did more than grow."""
    with file.open("rb") as stream:
        status = os.fstat(stream.fileno())
        identity = (status.st_ino, status.st_size, status.st_mtime_ns)
        if before is not None and before.identity == identity:
            return before
        if before is None or before.identity[0] != status.st_ino or before.identity[1] >= status.st_size:
            before = _Read(identity, 0, [], 0, b"")
        stream.seek(before.end)
        whole, newline, rest = stream.read().rpartition(b"\n")
    records, damaged = _sound(whole)
    end = before.end + len(whole) + len(newline)
    return _Read(identity, end, before.records + records, before.damaged + damaged, rest)


def _sound(data: bytes) -> tuple[list[Record], int]:
    """Return the records of lines, and how many of these are damaged."""
    records = [record_of(line) for line in filter(None, data.split(b"\n"))]
    return [record for record in records if record is not None], records.count(None)


def _damaged(lines: int) -> str:
    return "1 damaged line" if lines == 1 else f"{lines} damaged lines"


def append(stream: BinaryIO, lines: Sequence[bytes]) -> None:
    """Write lines at the end of a file, down to the disk."""
    # A crash can leave half a line behind: start on a fresh one.
    stream.write((b"" if _ends_whole(stream) else b"\n") + b"".join(line + b"\n" for line in lines))
    stream.flush()
    os.fsync(stream.fileno())


def _ends_whole(stream: BinaryIO) -> bool:
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        return True
    stream.seek(size - 1)
    return stream.read(1) == b"\n"


def line_of(record: Record) -> bytes:
    """Return a record as its line, without the line's end."""
    return canonical_json({**record, "check": digest(record)[:_CHECK_DIGITS]})


def record_of(line: bytes) -> Record | None:
    """Return one line's record, None when a bit of it is not as it was written."""
    try:
        record = json.loads(line)
        check = record.pop("check", None)
        sound = _is_as_written(line, check) or line == line_of(record)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None
    return record if sound else None


def _is_as_written(line: bytes, check: object) -> bool:
    """Tell it by the bytes alone, several times as fast; False also where they cannot tell."""
    written = b'"check":"%b",' % str(check).encode()
    before, found, after = line.partition(written)
    return bool(found) and written not in after and sha256_hex(before + after)[:_CHECK_DIGITS] == check


def name_of(record: Record) -> str:
    """Return what no other record of its book is called: its identity, or the digest of a set of rows.

    >>> name_of({"set": "ab12", "rows": []}), name_of({"identity": "cd34"})
    ('rows-ab12', 'cd34')
    """
    return f"rows-{record['set']}" if "set" in record else str(record["identity"])


def read_lines(file: Path) -> Iterator[tuple[bytes, Record | None]]:
    """Yield every line of a file with its record; None for a damaged one. Raises OSError."""
    for line in filter(None, file.read_bytes().split(b"\n")):
        yield line, record_of(line)
