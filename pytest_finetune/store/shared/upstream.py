"""The seam between a store and what it shares with other machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from pytest_finetune.errors import FinetuneError

SHARED_KINDS: Final = ("adapters", "outputs", "plans", "records")


class UpstreamError(FinetuneError):
    """What is shared cannot be reached, or refuses; the message says what, where and why, for the user."""


class Upstream(Protocol):
    """A place behind a store from which entries, lines of books and notes come, and to which new ones go.

    Nothing that it returns is trusted: the store verifies every byte. Places of notes are relative names such as
    ``pins/adapters-<key>.json``. All methods raise UpstreamError; the last five are never called where
    `readonly` is True.
    """

    @property
    def name(self) -> str:
        """The address, as it may be shown."""

    @property
    def readonly(self) -> bool:
        """Nothing may be written there."""

    def fetch(self, kind: str, key: str, into: Path) -> bool:
        """Copy an entry with its manifest into an empty folder; False when there is none.

        Raises DefectError when what lies there cannot be an entry.
        """

    def entry_names(self, kind: str) -> frozenset[str]:
        """Name the entries of a kind."""

    def manifests(self, kind: str, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the key and the manifest of each of these entries that is there."""

    def line_names(self, book: str) -> frozenset[str]:
        """Name all records of a book."""

    def lines(self, book: str, names: Iterable[str]) -> Iterator[bytes]:
        """Yield the lines of these records."""

    def note(self, place: str) -> bytes | None:
        """Return a note, None when there is none."""

    def note_names(self, folder: str) -> frozenset[str]:
        """Name the notes in a folder."""

    def publish(self, folder: Path, kind: str, key: str, *, replacing: bool) -> bool:
        """Upload a sealed entry; its manifest comes last and makes it one.

        The first writer wins: False when another entry stands there, unless `replacing`.
        """

    def add_lines(self, book: str, lines: Mapping[str, bytes]) -> None:
        """Add records to a book, each for itself: no other one is touched."""

    def put_note(self, place: str, data: bytes) -> None:
        """Write a note in place of the one before."""

    def put_first_note(self, place: str, data: bytes) -> bool:
        """Write a note unless there is one; False when another one stands there."""

    def drop_note(self, place: str) -> None:
        """Remove a note; nothing happens when there is none."""
