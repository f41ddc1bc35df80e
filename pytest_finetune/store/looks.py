"""Looks at held-out rows, counted across sessions: rows wear out, and the decision has to know."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from pytest_finetune.fingerprint import canonical_json, digest
from pytest_finetune.store.context import StoreContext
from pytest_finetune.store.disk import StoreError, explained, host_name
from pytest_finetune.store.lock import whole_file
from pytest_finetune.store.shared.upstream import UpstreamError

_BROUGHT: Final = "brought.jsonl"
_CHECK_DIGITS: Final = 16

Record = dict[str, Any]
"""One line of the book: a look, or the rows of a set that looks name by its digest."""


@dataclass(frozen=True, slots=True)
class Look:
    """One judgement of one adapter's answers by one set of rules on a set of held-out rows.

    `rows` holds the digests of the rows' content, so that a copied or renamed file is the same rows.
    """

    adapter: str
    answers: str
    rules_sha256: str
    rows: frozenset[str] = field(repr=False)

    @property
    def identity(self) -> str:
        """Digest of the whole tuple: equal for a look that only repeats another."""
        return digest([self.adapter, self.answers, self.rules_sha256, self.rows])


@dataclass(frozen=True, slots=True)
class Judged:
    """A look that was written down, as far as it is known what it judged; the oldest books name no experiment."""

    experiment: str
    k: int
    at_ns: int
    rows: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A look as it was written down; `rows` is None when the line that listed them is damaged."""

    identity: str
    rows: frozenset[str] | None
    rules: Mapping[str, str]
    k: int
    at_ns: int
    experiment: str

    def shares(self, rows: frozenset[str]) -> bool:
        """Unknown rows count as shared: wear is never forgotten because a line was damaged."""
        return self.rows is None or not self.rows.isdisjoint(rows)


class LookBook:
    """The looks of one store, in append-only JSONL files, one for each machine that writes.

    Every line carries a checksum; a damaged one is passed over with a warning. Behind a store that is shared, the
    records of other machines are brought over once, and ours are sent there.
    """

    def __init__(self, context: StoreContext) -> None:
        self._context = context
        self._folder = context.root / "looks"

    def earlier(self, look: Look) -> int:
        """Return k for `look`: one more than the distinct earlier looks that share a row with it.

        A look that was registered before keeps its k. Registers nothing. Raises StoreError when looks are shared
        and cannot be read: a number that may be too small would make the decision too easy.
        """
        return _count(self._read(), look)

    def judged(self) -> tuple[Judged, ...]:
        """Return every earlier look whose rows are known, the oldest first; asks others for theirs where it can."""
        return tuple(
            Judged(seen.experiment, seen.k, seen.at_ns, seen.rows)
            for seen in self._read_what_can_be_read()
            if seen.rows is not None
        )

    def register(self, look: Look, rules: Mapping[str, str] | None = None, experiment: str = "") -> int:
        """Write `look` down unless it is there, and return its k.

        `rules` maps each rule's name to the digest of its text, for `rules_seen`; `experiment` names the one that
        looked. Raises StoreError when the book cannot be written.
        """
        file = self._folder / f"{host_name()}.jsonl"
        with explained("write down a look", file):
            self._context.prepare()
            self._folder.mkdir(parents=True, exist_ok=True)
            with file.open("ab+") as stream, whole_file(stream.fileno()):
                seen = self._read_what_can_be_read()
                k = _count(seen, look)
                if all(other.identity != look.identity for other in seen):
                    _append(stream, _new_lines(seen, look, dict(rules or {}), k, experiment))
        self._send(file)
        return k

    def rules_seen(self, rows: frozenset[str]) -> dict[str, tuple[str, ...]]:
        """Map each rule that has judged any of `rows` to the digests of its texts, the oldest first."""
        texts: dict[str, dict[str, None]] = {}
        for seen in self._read():
            if seen.shares(rows):
                for name, text in seen.rules.items():
                    texts.setdefault(name, {})[text] = None
        return {name: tuple(found) for name, found in texts.items()}

    def changed_after_look(self, rules: Mapping[str, str], rows: frozenset[str]) -> tuple[str, ...]:
        """Name the rules whose text is another one than at their first look at any of `rows`."""
        seen = self.rules_seen(rows)
        return tuple(sorted(name for name, text in rules.items() if name in seen and seen[name][0] != text))

    def _read(self) -> list[_Seen]:
        """Return every sound look of every machine, the oldest first."""
        records = self._here()
        return _seen(records + self._bring({name_of(record) for record in records}))

    def _read_what_can_be_read(self) -> list[_Seen]:
        """Return the looks of this machine alone when the others cannot be reached: ours must be written down."""
        try:
            return self._read()
        except StoreError as error:
            self._context.warn(str(error))
            return _seen(self._here())

    def _here(self) -> list[Record]:
        return [record for file in self._files() for record in self._records(file)]

    def _bring(self, known: set[str]) -> list[Record]:
        """Return the records that others have shared and that are not here, and keep them."""
        upstream = self._context.upstream
        if upstream is None:
            return []
        try:
            new = sorted(upstream.look_names() - known)
            lines = [(line, record_of(line)) for line in upstream.look_lines(new)] if new else []
        except UpstreamError as error:
            raise StoreError(
                f"store: the earlier looks at these rows are not known: {error}; without them the decision would be "
                "too easy: run again when it can be reached, or decide on a store of your own with --finetune-store=DIR"
            ) from error
        sound = [(line, record) for line, record in lines if record is not None]
        if len(sound) < len(lines):
            self._context.warn(
                f"store: {_damaged(len(lines) - len(sound))} in the looks at {upstream.name} passed over; "
                "looks may be missing"
            )
        with contextlib.suppress(OSError):  # a book that cannot be kept here is brought again
            self._keep([line for line, _ in sound])
        return [record for _, record in sound]

    def _keep(self, lines: list[bytes]) -> None:
        if lines:
            self._context.prepare()
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / _BROUGHT).open("ab+") as stream, whole_file(stream.fileno()):
                _append(stream, lines)

    def _send(self, file: Path) -> None:
        """Share what was written down here and is not there yet, rows before the looks at them."""
        upstream = self._context.upstream
        if upstream is None or upstream.readonly:
            return
        try:
            there = upstream.look_names()
            ours = {name_of(record): line for line, record in read_lines(file) if record is not None}
            upstream.add_looks({name: line for name, line in ours.items() if name not in there})
        except (UpstreamError, OSError) as error:
            self._context.warn(
                f"store: this look is counted on this machine only: {error}; the next run here shares it"
            )

    def _files(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return sorted(file for file in self._folder.iterdir() if file.suffix == ".jsonl")
        return []

    def _records(self, file: Path) -> Iterator[Record]:
        try:
            records = [record for _, record in read_lines(file)]
        except OSError as error:
            self._context.warn(
                f"store: looks in {file} cannot be read ({error.strerror}); they are not counted"
            )
            return
        yield from filter(None, records)
        damaged = records.count(None)
        if damaged:
            self._context.warn(f"store: {_damaged(damaged)} in {file} passed over; looks may be missing")


def _seen(records: list[Record]) -> list[_Seen]:
    sets = {record["set"]: frozenset(record["rows"]) for record in records if "set" in record}
    looks = [
        _Seen(r["identity"], sets.get(r["rows_set"]), r["rules"], r["k"], r["at_ns"], r.get("experiment", ""))
        for r in records
        if "identity" in r
    ]
    return sorted(looks, key=lambda seen: seen.at_ns)


def _damaged(lines: int) -> str:
    return "1 damaged line" if lines == 1 else f"{lines} damaged lines"


def _count(seen: list[_Seen], look: Look) -> int:
    identity = look.identity
    known = [other.k for other in seen if other.identity == identity]
    if known:
        return max(known)
    return 1 + len({other.identity for other in seen if other.shares(look.rows)})


def _new_lines(seen: list[_Seen], look: Look, rules: dict[str, str], k: int, experiment: str) -> list[bytes]:
    rows = digest(look.rows)
    lines = []
    if all(other.rows != look.rows for other in seen):
        lines.append(line_of({"rows": sorted(look.rows), "set": rows}))
    lines.append(
        line_of(
            {
                "adapter": look.adapter,
                "answers": look.answers,
                "at_ns": time.time_ns(),
                "experiment": experiment,
                "k": k,
                "rules": rules,
                "rules_sha256": look.rules_sha256,
                "rows_set": rows,
                "identity": look.identity,
            }
        )
    )
    return lines


def _append(stream: BinaryIO, lines: list[bytes]) -> None:
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
        sound = check == digest(record)[:_CHECK_DIGITS] and canonical_json({**record, "check": check}) == line
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None
    return record if sound else None


def name_of(record: Record) -> str:
    """Return what no other record is called: a look's identity, or the digest of a set of rows.

    >>> name_of({"set": "ab12", "rows": []}), name_of({"identity": "cd34"})
    ('rows-ab12', 'cd34')
    """
    return f"rows-{record['set']}" if "set" in record else str(record["identity"])


def read_lines(file: Path) -> Iterator[tuple[bytes, Record | None]]:
    """Yield every line of a file with its record; None for a damaged one. Raises OSError."""
    for line in filter(None, file.read_bytes().split(b"\n")):
        yield line, record_of(line)
