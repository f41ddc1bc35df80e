"""Another store's folder that is only read: nothing in it is written, locked, set aside or counted."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pytest_finetune.store import disk
from pytest_finetune.store.lines import name_of, read_lines
from pytest_finetune.store.manifest import MANIFEST, verify
from pytest_finetune.store.shared.upstream import UpstreamError


class SharedFolder:
    """An Upstream in a folder that a store has written."""

    readonly = True

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def name(self) -> str:
        """The folder."""
        return str(self._root)

    def fetch(self, kind: str, key: str, into: Path) -> bool:
        """Verify an entry where it lies, and copy it."""
        folder = self._root / kind / key
        with self._reading(f"read {kind}/{key[:12]}"):
            if folder.parent.is_symlink():
                return False
            try:
                names = [*verify(folder, kind, key).files, MANIFEST]
                for name in names:
                    (into / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / name, into / name, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                return False  # it was never there, or its owner has taken it away meanwhile
        return True

    def entry_names(self, kind: str) -> frozenset[str]:
        """Name the entries of a kind."""
        with self._reading(f"list {kind}"):
            return frozenset(file.parent.name for file in (self._root / kind).glob(f"*/{MANIFEST}"))

    def manifests(self, kind: str, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the key and the manifest of each of these entries that is there."""
        with self._reading(f"list {kind}"):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    yield name, (self._root / kind / name / MANIFEST).read_bytes()

    def line_names(self, book: str) -> frozenset[str]:
        """Name all records of a book."""
        return frozenset(self._lines(book))

    def lines(self, book: str, names: Iterable[str]) -> Iterator[bytes]:
        """Yield the lines of these records."""
        found = self._lines(book)
        return (found[name] for name in names if name in found)

    def _lines(self, book: str) -> Mapping[str, bytes]:
        with self._reading(f"read {book}"):
            files = sorted((self._root / book).glob("*.jsonl"))
            return {name_of(record): line for file in files for line, record in read_lines(file) if record}

    def note(self, place: str) -> bytes | None:
        """Return a note, None when there is none."""
        with self._reading(f"read {place}"):
            file = self._root / place
            return file.read_bytes() if file.is_file() else None

    def note_names(self, folder: str) -> frozenset[str]:
        """Name the notes in a folder."""
        with self._reading(f"list {folder}"):
            return frozenset(file.name for file in (self._root / folder).glob("*.json"))

    def publish(self, folder: Path, kind: str, key: str, *, replacing: bool) -> bool:
        """Refuse."""
        raise self._refusal()

    def add_lines(self, book: str, lines: Mapping[str, bytes]) -> None:
        """Refuse."""
        raise self._refusal()

    def put_note(self, place: str, data: bytes) -> None:
        """Refuse."""
        raise self._refusal()

    def put_first_note(self, place: str, data: bytes) -> bool:
        """Refuse."""
        raise self._refusal()

    def drop_note(self, place: str) -> None:
        """Refuse."""
        raise self._refusal()

    def _refusal(self) -> UpstreamError:
        return UpstreamError(f"the store {self._root} is only read")

    @contextmanager
    def _reading(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = disk.explanation(action, self._root, error).removeprefix("store: ")
            raise UpstreamError(reason) from error
