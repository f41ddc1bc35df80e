"""Steps that run elsewhere: what is asked for, who has sent it on, and what the step tells, beside the entries.

::

    <store>/jobs/<key>/request.json   what the step is to make, until it is made; sealed
    <store>/jobs/<key>/1-sent.json    who sent it on as the first attempt; the first writer wins
    <store>/jobs/<key>/1-job.json     how its executor knows the job
    <store>/jobs/<key>/1-told.json    what the step tells: its state, its progress, the end of its log

Each file has one writer. Behind a URL they are read there, never from the folder in front of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

from pytest_finetune.fingerprint.sealed import sealed, unsealed
from pytest_finetune.store.context import StoreContext
from pytest_finetune.store.disk import StoreError, explained, temporary_name, write_atomically, write_durably
from pytest_finetune.store.shared.upstream import UpstreamError

JOBS: Final = "jobs"
REQUEST: Final = "request"
SENT: Final = "sent"
JOB: Final = "job"
TOLD: Final = "told"
RUNNING: Final = "running"
DONE: Final = "done"
INTERRUPTED: Final = "interrupted"
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_MOST_ATTEMPTS: Final = 1000


class JobBook:
    """The folder ``jobs/`` of a store. All methods raise StoreError when the store cannot be read or written."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def ask(self, key: str, request: Mapping[str, Any]) -> None:
        """Write what a step is to make, in place of an earlier request for the same."""
        self._put(_place(key, REQUEST), sealed(request, 0))

    def request(self, key: str) -> Mapping[str, Any] | None:
        """Return what a step is to make; None when nobody asks for it, StoreError when it is damaged."""
        return self._read(_place(key, REQUEST))

    def forget(self, key: str) -> None:
        """Remove a request, which holds rows, once it is answered."""
        place = _place(key, REQUEST)
        upstream = self._context.upstream
        with explained("remove a request", self._context.root / place):
            if upstream is None:
                (self._context.root / place).unlink(missing_ok=True)
                return
        try:
            upstream.drop_note(place)
        except UpstreamError as error:
            self._context.warn(f"store: the rows of a request stay at {upstream.name}: {error}")

    def attempt(self, key: str) -> int:
        """Return the number of the last attempt, 0 when there was none."""
        number = 0
        while number < _MOST_ATTEMPTS and self._data(_place(key, SENT, number + 1)) is not None:
            number += 1
        return number

    def send(self, key: str, number: int, facts: Mapping[str, Any]) -> bool:
        """Begin an attempt; False when somebody else has begun it."""
        return self._put_first(_place(key, SENT, number), sealed(facts, 0))

    def know(self, key: str, number: int, ticket: Mapping[str, Any]) -> None:
        """Write down how the executor knows the job of an attempt."""
        self._put(_place(key, JOB, number), sealed(ticket, 0))

    def tell(self, key: str, number: int, facts: Mapping[str, Any]) -> None:
        """Write down what the step of an attempt tells, in place of what it told before."""
        self._put(_place(key, TOLD, number), sealed(facts, 0))

    def read(self, key: str, number: int, kind: str) -> Mapping[str, Any] | None:
        """Return what stands there of an attempt (`kind` is SENT, JOB or TOLD); None when there is nothing."""
        return self._read(_place(key, kind, number))

    def _read(self, place: str) -> Mapping[str, Any] | None:
        data = self._data(place)
        if data is None:
            return None
        found = unsealed(data, 0)
        if found is None:
            raise StoreError(f"store: {place} is damaged: remove it, and run pytest --finetune again")
        del found["digest"]
        return found

    def _data(self, place: str) -> bytes | None:
        upstream, file = self._context.upstream, self._context.root / place
        if upstream is not None:
            try:
                return upstream.note(place)
            except UpstreamError as error:
                raise StoreError(f"store: {error}") from None
        with explained(f"read {place}", file):
            try:
                return file.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _put(self, place: str, data: bytes) -> None:
        upstream, file = self._context.upstream, self._context.root / place
        if upstream is not None:
            try:
                upstream.put_note(place, data)
            except UpstreamError as error:
                raise StoreError(f"store: {error}") from None
            return
        with explained(f"write {place}", file):
            self._context.prepare()
            write_atomically(file, data)

    def _put_first(self, place: str, data: bytes) -> bool:
        upstream, file = self._context.upstream, self._context.root / place
        if upstream is not None:
            try:
                return upstream.put_first_note(place, data)
            except UpstreamError as error:
                raise StoreError(f"store: {error}") from None
        with explained(f"write {place}", file):
            self._context.prepare()
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.parent / f".{temporary_name()}"
            try:
                write_durably(part, data)
                os.link(part, file)  # whole, or not at all
            except FileExistsError:
                return False
            finally:
                part.unlink(missing_ok=True)
        return True


def is_key(text: str) -> bool:
    """Tell whether a text can be the key of a step: 64 hexadecimal digits."""
    return _KEY.fullmatch(text) is not None


def _place(key: str, kind: str, number: int | None = None) -> str:
    if not is_key(key):
        raise StoreError(f"store: {key!r:.90} is no key of a step: it has 64 hexadecimal digits")
    return f"{JOBS}/{key}/{kind}.json" if number is None else f"{JOBS}/{key}/{number}-{kind}.json"
