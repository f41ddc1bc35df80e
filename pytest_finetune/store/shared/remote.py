"""A store on a URL: what lies where in it, and the order of writing that makes it safe without a rename.

::

    <url>/<kind>/<key>/<16 digits of the manifest's digest>/<files>   uploaded first, never changed
    <url>/<kind>/<key>/MANIFEST.json                                  uploaded last: now it is an entry
    <url>/looks/<record>.jsonl                                        one object for each record
    <url>/last/  <url>/pins/                                          notes

Two writers of one key never touch each other's files, since the manifests differ; the manifest that stands in the end
names files that are all there, whoever won.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from pytest_finetune.fingerprint import sha256_hex
from pytest_finetune.store.manifest import MANIFEST, DefectError, parse
from pytest_finetune.store.shared.bucket import Bucket

_ATTEMPTS: Final = 3
_PAUSE_S: Final = 0.2
_DIGITS: Final = 16


class RemoteStore:
    """An Upstream in a bucket."""

    def __init__(self, bucket: Bucket, *, readonly: bool) -> None:
        self._bucket = bucket
        self._readonly = readonly

    @property
    def name(self) -> str:
        """The URL."""
        return self._bucket.url

    @property
    def readonly(self) -> bool:
        """Nothing may be written there."""
        return self._readonly

    def fetch(self, kind: str, key: str, into: Path) -> bool:
        """Download an entry; again from the start when its manifest or a file changed meanwhile."""
        for attempt in range(_ATTEMPTS):
            time.sleep(_PAUSE_S * attempt)
            data = self._bucket.get(f"{kind}/{key}/{MANIFEST}")
            if data is None:
                return False
            try:
                self._download(kind, key, data, into)
            except DefectError as defect:
                last = defect
                for path in into.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            else:
                return True
        raise last

    def _download(self, kind: str, key: str, manifest: bytes, into: Path) -> None:
        entry = parse(manifest, kind, key, into)
        for name in entry.files:
            file = into / _contained(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            if not self._bucket.download(f"{_folder(kind, key, manifest)}/{name}", file):
                raise DefectError(f"{name} is missing")
        (into / MANIFEST).write_bytes(manifest)

    def entry_names(self, kind: str) -> frozenset[str]:
        """Name the entries of a kind."""
        return frozenset(self._bucket.names(kind))

    def manifests(self, kind: str, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the key and the manifest of each of these entries that is there."""
        places = {f"{kind}/{key}/{MANIFEST}": key for key in names}
        for place, data in self._bucket.get_many(places).items():
            yield places[place], data

    def publish(self, folder: Path, kind: str, key: str, *, replacing: bool) -> bool:
        """Upload the files under a name of their own, then the manifest; the first manifest wins."""
        manifest, place = (folder / MANIFEST).read_bytes(), f"{kind}/{key}/{MANIFEST}"
        there = self._bucket.get(place)
        if there is not None and not replacing:
            return there == manifest
        for name in parse(manifest, kind, key, folder).files:
            self._bucket.upload(folder / name, f"{_folder(kind, key, manifest)}/{name}")
        if replacing:
            self._bucket.put(place, manifest)
            return True
        return self._bucket.put_first(place, manifest)

    def line_names(self, book: str) -> frozenset[str]:
        """Name all records of a book."""
        return frozenset(name.removesuffix(".jsonl") for name in self._bucket.names(book))

    def lines(self, book: str, names: Iterable[str]) -> Iterator[bytes]:
        """Yield the lines of these records."""
        for data in self._bucket.get_many(f"{book}/{name}.jsonl" for name in names).values():
            yield from data.splitlines()

    def add_lines(self, book: str, lines: Mapping[str, bytes]) -> None:
        """Add records to a book, each an object of its own."""
        for name, line in lines.items():
            self._bucket.put(f"{book}/{name}.jsonl", line + b"\n")

    def note(self, place: str) -> bytes | None:
        """Return a note, None when there is none."""
        return self._bucket.get(place)

    def note_names(self, folder: str) -> frozenset[str]:
        """Name the notes in a folder."""
        return frozenset(self._bucket.names(folder))

    def put_note(self, place: str, data: bytes) -> None:
        """Write a note in place of the one before."""
        self._bucket.put(place, data)

    def put_first_note(self, place: str, data: bytes) -> bool:
        """Write a note unless there is one; False when another one stands there."""
        return self._bucket.put_first(place, data)

    def drop_note(self, place: str) -> None:
        """Remove a note; nothing happens when there is none."""
        self._bucket.remove(place)


def _folder(kind: str, key: str, manifest: bytes) -> str:
    return f"{kind}/{key}/{sha256_hex(manifest)[:_DIGITS]}"


def _contained(name: str) -> PurePosixPath:
    """Return a file's name as a path below its entry; DefectError when it would lead anywhere else."""
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or set(name) & set("\\:\0")
        or name == MANIFEST
    ):
        raise DefectError(f"{name!r} would lead out of the entry")
    return path
