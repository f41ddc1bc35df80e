"""Split a byte stream into lines of text, in constant memory; whatever is wrong with the bytes is a finding.

gzip and zstd are told by their first bytes, not by a file name.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple

from pytest_finetune.data.catalogue import finding
from pytest_finetune.data.findings import Finding

MAX_LINE_BYTES: Final = 1024 * 1024

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
PACKED: Final = (_GZIP, _ZSTD)


class Line(NamedTuple):
    """A line without its end; `ended` is False for a last line that has none."""

    text: str
    number: int
    offset: int
    ended: bool


def read_lines(path: Path, label: str, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Line | Finding]:
    """Yield the lines of a file and the findings about its bytes, in order; these call it `label`."""
    with path.open("rb") as raw:
        head = raw.read(4)
        raw.seek(0)
        if head.startswith(_ZSTD):
            yield from _zstd_lines(raw, label, max_line_bytes)
        elif head.startswith(_GZIP):
            with gzip.open(raw) as stream:
                yield from _lines(stream, label, max_line_bytes, (OSError, EOFError, zlib.error))
        else:
            yield from _lines(raw, label, max_line_bytes, ())


def _zstd_lines(raw: IO[bytes], label: str, limit: int) -> Iterator[Line | Finding]:
    try:
        import zstandard
    except ImportError:
        yield finding("data/unreadable-archive", "a zstd file, and zstandard is not installed", file=label)
        return
    reader = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(raw, read_across_frames=True)
    with io.BufferedReader(reader) as stream:
        yield from _lines(stream, label, limit, (zstandard.ZstdError, OSError, EOFError))


def _lines(
    stream: io.BufferedIOBase, label: str, limit: int, damage: tuple[type[Exception], ...]
) -> Iterator[Line | Finding]:
    number = offset = 0
    crlf: list[int] = []
    while True:
        try:
            raw = stream.readline(limit + 1)
            too_long = len(raw) > limit
            size = len(raw) + (_skip_line(stream) if too_long and not raw.endswith(b"\n") else 0)
        except damage as error:
            yield finding("data/damaged-archive", f"{error} after line {number}", file=label, line=number + 1)
            break
        if not raw:
            if number == 0:
                yield finding("data/empty-file", "0 bytes", file=label)
            break
        number += 1
        if too_long:
            yield finding("data/long-line", f"{size} bytes (limit {limit})", file=label, line=number)
        else:
            if raw.endswith(b"\r\n"):
                crlf.append(number)
            if number == 1 and raw.startswith(codecs.BOM_UTF8):
                yield finding("data/bom", "the file begins with EF BB BF", file=label, line=1)
                raw, offset, size = raw[3:], 3, size - 3
            yield _line(raw, number, offset, label)
        offset += size
    if crlf:
        read = f"{len(crlf)} of {number} lines end with CRLF"
        yield finding("data/crlf", read, file=label, line=crlf[0])


def _line(raw: bytes, number: int, offset: int, label: str) -> Line | Finding:
    if b"\0" in raw:
        return finding("data/nul", f"{raw.count(0)} NUL bytes", file=label, line=number)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return invalid_utf8(raw[error.start], error.start, number, label)
    if not text or text.isspace():
        return finding("data/blank-line", "a line without a row", file=label, line=number)
    return Line(text.rstrip("\r\n"), number, offset, raw.endswith(b"\n"))


def decoded(data: bytes, label: str) -> str | Finding:
    """Return a whole file as text, without its byte order mark; the finding where it is no UTF-8."""
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line_start = data.rfind(b"\n", 0, error.start) + 1
        line = data.count(b"\n", 0, error.start) + 1
        return invalid_utf8(data[error.start], error.start - line_start, line, label)


def invalid_utf8(byte: int, at: int, number: int, label: str) -> Finding:
    """Return the finding of a byte that is no UTF-8, at this position of that line."""
    read = f"byte {byte:#04x} at position {at + 1} of the line"
    return finding("data/invalid-utf8", read, file=label, line=number)


def _skip_line(stream: io.BufferedIOBase) -> int:
    """Read on to the end of the line and return how many bytes that were."""
    skipped = 0
    while chunk := stream.readline(64 * 1024):
        skipped += len(chunk)
        if chunk.endswith(b"\n"):
            break
    return skipped
