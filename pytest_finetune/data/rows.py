"""Read training and held-out rows: every row knows its file, line and byte offset, every defect is a finding.

JSON lines are streamed (plain, gzip or zstd, told by their first bytes); other formats are read by `sources`, and where
a file is named a data set of the `datasets` library can be named as well.
Nothing raises on content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, overload

from pytest_finetune.data.call_formats import ToolCall
from pytest_finetune.data.catalogue import finding, quoted
from pytest_finetune.data.columnar import Record
from pytest_finetune.data.data_sets import digest_of
from pytest_finetune.data.findings import Finding
from pytest_finetune.data.json_slips import fix_of
from pytest_finetune.data.lines import MAX_LINE_BYTES, Line
from pytest_finetune.data.messages import ShapeError
from pytest_finetune.data.shapes import absent_column, content_of, name_of, renamed, tags_of
from pytest_finetune.data.sources import read_source
from pytest_finetune.data.strict_json import StrictParser
from pytest_finetune.data.tool_calls import read_calls
from pytest_finetune.data.words import words_of
from pytest_finetune.yamlfile import Json, JsonTree

_FAULT_RULES: Final = {"syntax": "data/invalid-json"}


@dataclass(frozen=True, slots=True)
class Row:
    """One example; `line` starts at 1 and is the row's number in a format without lines.

    `offset` counts bytes of the (decompressed) file of JSON lines.
    """

    file: str
    line: int
    offset: int
    shape: str
    instruction: str
    input: str
    output: str
    messages: tuple[Json, ...] | None
    tags: tuple[str, ...]
    group: str | None
    raw: Json
    given_id: str | None = None
    tools: tuple[Json, ...] = ()

    def __repr__(self) -> str:
        return f"<row {self.id} at {self.place}>"

    @property
    def id(self) -> str:
        """Return the row's own id, else one made from its content."""
        return self.given_id or f"r{self.digest[:11]}"

    @property
    def digest(self) -> str:
        """Return the sha256 of what the row says: question, answer and tools, without id, tags and further keys.

        Equal in both splits, and whether the answer is called `output` or `expected`.
        """
        if self.messages is None and not self.tools:
            return _digest_of_texts(self.instruction, self.input, self.output)
        said: object = [self.instruction, self.input, self.output]
        if self.messages is not None:
            said = [dict(message) for message in self.messages]
        if self.tools:
            said = {"said": said, "tools": list(self.tools)}
        return _digest_of(said)

    @property
    def question_digest(self) -> str:
        """Return the sha256 of the words that the row asks; case, spacing and the answer do not tell two apart."""
        asked = [" ".join(words_of(text)) or text.strip() for text in (self.instruction, self.input)]
        return hashlib.sha256(json.dumps([*asked, *self.tools]).encode("ascii")).hexdigest()

    @property
    def place(self) -> str:
        """Return ``file:line``."""
        return f"{self.file}:{self.line}"

    @property
    def expected(self) -> str:
        """Return the answer that the row holds, `output` by another name."""
        return self.output

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Return the calls of tools that the expected answer makes."""
        return read_calls(self.output, self.tools)

    def expected_json(self) -> Any:
        """Return the answer as a JSON value; ValueError when it is none."""
        return json.loads(self.output)


@lru_cache(maxsize=4096)
def _digest_of_texts(*texts: str) -> str:
    """Remember the rows that were asked last: a session asks each of them for its id some ten times."""
    return _digest_of(texts)


def _digest_of(said: object) -> str:
    text = json.dumps(said, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class Rows(Sequence[Row]):
    """The rows of one file in file order, what was wrong with the file or is noted of it, and its checksum.

    `others` counts the rows of the file that were set aside from these.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        *,
        path: str,
        split: str,
        sha256: str = "",
        findings: Iterable[Finding] = (),
        others: int = 0,
    ) -> None:
        self._rows = tuple(rows)
        self.others = others
        self.path = path
        self.split = split
        self.sha256 = sha256
        found = tuple(findings)
        self.defects = tuple(one for one in found if one.severity != "note")
        self.notes = tuple(one for one in found if one.severity == "note")

    @property
    def unread(self) -> bool:
        """Tell whether no file was read, or none could be, which `defects` say: the counts of its rows mean nothing."""
        return not self._rows and (bool(self.defects) or not self.sha256)

    def only(self, rows: Iterable[Row], others: int = 0) -> Rows:
        """Return some of the rows as rows of the same file; `others` were set aside."""
        findings = (*self.defects, *self.notes)
        return Rows(
            rows, path=self.path, split=self.split, sha256=self.sha256, findings=findings, others=others
        )

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __repr__(self) -> str:
        defects = f", {len(self.defects)} defects" if self.defects else ""
        return f"<{len(self)} {self.split} rows of {self.path}{defects}>"


def members(rows: Sequence[Row], by: str) -> dict[str, list[str]]:
    """Return the row ids of each slice: by `tags`, by `group`, or by any further field of the rows."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name in dict.fromkeys(_slices_of(row, by)):
            found.setdefault(name, []).append(row.id)
    return dict(sorted(found.items()))


def _slices_of(row: Row, by: str) -> Iterator[str]:
    value = row.tags if by == "tags" else row.group if by == "group" else row.raw.get(by)
    for part in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(part, (str, int, float)) and str(part):
            yield str(part).lower() if isinstance(part, bool) else str(part)


def read_rows(
    root: Path,
    relative: str,
    split: str,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    columns: Mapping[str, str] | None = None,
) -> Rows:
    """Read a whole file; defective lines are left out of the rows and stand in its `defects`.

    `columns` maps our names to the file's. Held-out rows get ids that are unique in their file. Raises OSErrors of
    opening (FileNotFoundError).
    """
    rows: list[Row] = []
    findings: list[Finding] = []
    for item in stream_rows(root, relative, max_line_bytes=max_line_bytes, columns=columns):
        if isinstance(item, Row):
            rows.append(item)
        else:
            findings.append(item)
    findings.extend(_repeated_ids(rows))
    if split != "train":
        rows = list(_with_unique_ids(rows))
    return Rows(rows, path=relative, split=split, sha256=digest_of(root, relative) or "", findings=findings)


def stream_rows(
    root: Path,
    relative: str,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Row | Finding]:
    """Yield rows and findings in file order; of JSON lines one is held at a time."""
    reader = _Reader(relative, columns or {})
    for item in read_source(root / relative, relative, max_line_bytes):
        if isinstance(item, Line):
            yield from reader.read(item)
        elif isinstance(item, Record):
            yield reader.take(item.value, item.number, 0)
        else:
            yield item
    yield from reader.close()


class _Reader:
    """Turn lines into rows; remembers the shapes that it saw."""

    def __init__(self, file: str, columns: Mapping[str, str]) -> None:
        self._file = file
        self._columns = columns
        self._parser = StrictParser()
        self._shapes: dict[str, list[int]] = {}
        self._instructions: dict[str, str] = {}

    def read(self, line: Line) -> Iterator[Row | Finding]:
        parsed = self._parser.parse(line.text)
        if parsed.faults:
            yield from self._faults(line, parsed.faults)
            return
        value = parsed.value
        if type(value) is not dict:
            yield self._finding("data/row-shape", f"{quoted(line.text, 40)} is not an object", line.number)
            return
        yield self.take(value, line.number, line.offset)

    def take(self, value: JsonTree, number: int, offset: int) -> Row | Finding:
        """Return the row that an object is, else what it lacks."""
        try:
            return self._row(renamed(value, self._columns), number, offset)
        except ShapeError as error:
            read = "; ".join(filter(None, (absent_column(value, self._columns), str(error))))
            return finding("data/row-shape", read, file=self._file, line=number, fix=error.fix)

    def close(self) -> Iterator[Finding]:
        if len(self._shapes) < 2:
            return
        common = max(self._shapes, key=lambda shape: self._shapes[shape][0])
        for shape, (count, first) in self._shapes.items():
            if shape != common:
                read = f"{count} rows of shape {shape} beside {self._shapes[common][0]} of shape {common}"
                yield finding("data/mixed-shapes", read, file=self._file, line=first)

    def _row(self, value: JsonTree, number: int, offset: int) -> Row:
        content = content_of(value)
        # An instruction row with a history is read as a conversation, and stands beside those without one.
        shape = "instruction" if "instruction" in value else content.shape
        seen = self._shapes.get(shape)
        if seen is None:
            self._shapes[shape] = [1, number]
        else:
            seen[0] += 1
        # Instructions repeat in every row; one string for all of them keeps a million rows small.
        instruction = self._instructions.setdefault(content.instruction, content.instruction)
        return Row(
            self._file,
            number,
            offset,
            content.shape,
            instruction,
            content.input,
            content.output,
            content.messages,
            tags_of(value) if "tags" in value else (),
            name_of(value, "group") if "group" in value else None,
            value,
            name_of(value, "id") if "id" in value else None,
            content.tools,
        )

    def _faults(self, line: Line, faults: Sequence[tuple[str, str]]) -> Iterator[Finding]:
        for kind, read in faults:
            rule = _FAULT_RULES.get(kind, f"data/{kind}")
            fix = fix_of(line.text) if kind == "syntax" else None
            if kind == "syntax" and not line.ended and fix is None:
                rule, read = "data/truncated-line", f"the last line has no end: {read}"
            yield finding(rule, read, file=self._file, line=line.number, fix=fix)

    def _finding(self, rule: str, read: str, number: int) -> Finding:
        return finding(rule, read, file=self._file, line=number)


def _repeated_ids(rows: Iterable[Row]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for row in rows:
        if row.given_id is None:
            continue
        if (line := first.setdefault(row.given_id, row.line)) != row.line:
            yield finding(
                "data/duplicate-id",
                f"the id {row.given_id!r} stands on line {line} already",
                file=row.file,
                line=row.line,
            )


def _with_unique_ids(rows: Sequence[Row]) -> Iterator[Row]:
    seen: dict[str, int] = {}
    for row in rows:
        count = seen[row.id] = seen.get(row.id, 0) + 1
        yield row if count == 1 else replace(row, given_id=f"{row.id}.{count}")
