"""Looks at held-out rows, counted across sessions: rows wear out, and the decision has to know."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from pytest_finetune.fingerprint import canonical_json, digest
from pytest_finetune.store.disk import explained, host_name
from pytest_finetune.store.ground import Ground
from pytest_finetune.store.lock import whole_file

_CHECK_DIGITS: Final = 16


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
class _Seen:
    """A look as it was written down; `rows` is None when the line that listed them is damaged."""

    identity: str
    rows: frozenset[str] | None
    rules: Mapping[str, str]
    k: int
    at_ns: int

    def shares(self, rows: frozenset[str]) -> bool:
        """Unknown rows count as shared: wear is never forgotten because a line was damaged."""
        return self.rows is None or not self.rows.isdisjoint(rows)


class LookBook:
    """The looks of one store, in append-only JSONL files, one for each machine that writes.

    Every line carries a checksum; a damaged one is passed over with a warning.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._folder = ground.root / "looks"

    def earlier(self, look: Look) -> int:
        """Return k for `look`: one more than the distinct earlier looks that share a row with it.

        A look that was registered before keeps its k. Writes nothing.
        """
        return _count(self._read(), look)

    def register(self, look: Look, rules: Mapping[str, str] | None = None) -> int:
        """Write `look` down unless it is there, and return its k.

        `rules` maps each rule's name to the digest of its text, for `rules_seen`. Raises StoreError
        when the book cannot be written.
        """
        file = self._folder / f"{host_name()}.jsonl"
        with explained("write down a look", file):
            self._ground.prepare()
            self._folder.mkdir(parents=True, exist_ok=True)
            with file.open("ab+") as stream, whole_file(stream.fileno()):
                seen = self._read()
                k = _count(seen, look)
                if all(other.identity != look.identity for other in seen):
                    self._append(stream, seen, look, dict(rules or {}), k)
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

    def _append(self, stream: BinaryIO, seen: list[_Seen], look: Look, rules: dict[str, str], k: int) -> None:
        rows = digest(look.rows)
        lines = []
        if all(other.rows != look.rows for other in seen):
            lines.append(_line({"rows": sorted(look.rows), "set": rows}))
        lines.append(
            _line(
                {
                    "adapter": look.adapter,
                    "answers": look.answers,
                    "at_ns": time.time_ns(),
                    "k": k,
                    "rules": rules,
                    "rules_sha256": look.rules_sha256,
                    "rows_set": rows,
                    "identity": look.identity,
                }
            )
        )
        # A crash can leave half a line behind: start on a fresh one.
        stream.write((b"" if _ends_whole(stream) else b"\n") + b"".join(lines))
        stream.flush()
        os.fsync(stream.fileno())

    def _read(self) -> list[_Seen]:
        """Return every sound look of every machine, the oldest first."""
        records = [record for file in self._files() for record in self._records(file)]
        sets = {record["set"]: frozenset(record["rows"]) for record in records if "set" in record}
        looks = [
            _Seen(r["identity"], sets.get(r["rows_set"]), r["rules"], r["k"], r["at_ns"])
            for r in records
            if "identity" in r
        ]
        return sorted(looks, key=lambda seen: seen.at_ns)

    def _files(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return sorted(file for file in self._folder.iterdir() if file.suffix == ".jsonl")
        return []

    def _records(self, file: Path) -> Iterator[dict[str, Any]]:
        try:
            lines = file.read_bytes().split(b"\n")
        except OSError as error:
            self._ground.warn(
                f"store: looks in {file} cannot be read ({error.strerror}); they are not counted"
            )
            return
        damaged = 0
        for line in filter(None, lines):
            record = _record(line)
            if record is None:
                damaged += 1
            else:
                yield record
        if damaged:
            lines_text = "1 damaged line" if damaged == 1 else f"{damaged} damaged lines"
            self._ground.warn(f"store: {lines_text} in {file} passed over; looks may be missing")


def _count(seen: list[_Seen], look: Look) -> int:
    identity = look.identity
    known = [other.k for other in seen if other.identity == identity]
    if known:
        return max(known)
    return 1 + len({other.identity for other in seen if other.shares(look.rows)})


def _line(record: Mapping[str, Any]) -> bytes:
    return canonical_json({**record, "check": _check(record)}) + b"\n"


def _record(line: bytes) -> dict[str, Any] | None:
    """Return one line's record, None when a bit of it is not as it was written."""
    try:
        record = json.loads(line)
        check = record.pop("check", None)
        sound = check == _check(record) and canonical_json({**record, "check": check}) == line
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None
    return record if sound else None


def _check(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(record)).hexdigest()[:_CHECK_DIGITS]


def _ends_whole(stream: BinaryIO) -> bool:
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        return True
    stream.seek(size - 1)
    return stream.read(1) == b"\n"
