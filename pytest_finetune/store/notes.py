"""Small facts that outlive a session: the last run, and which entries must never be collected."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from pytest_finetune.fingerprint import sha256_hex
from pytest_finetune.store.context import StoreContext
from pytest_finetune.store.disk import explained, write_atomically
from pytest_finetune.store.shared.upstream import Upstream, UpstreamError

_PLAIN_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,79}")


class Notes:
    """One JSON file for each note, replaced atomically, and shared where the store is."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def last(self, name: str) -> Mapping[str, Any] | None:
        """Return the note under `name`, None when there is none or it is damaged (with a warning).

        The last one written here; where there is none, the last one that was shared.
        """
        place = f"last/{_file_name(name)}"
        try:
            data = self._data(place)
            note = None if data is None else json.loads(data)
        except (OSError, ValueError, RecursionError) as error:
            self._context.warn(
                f"store: {self._context.root / place} cannot be read ({type(error).__name__}); the last run is unknown"
            )
            return None
        return note["value"] if isinstance(note, dict) and isinstance(note.get("value"), dict) else None

    def remember(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace the note under `name`; StoreError when it cannot be written."""
        text = json.dumps({"name": name, "value": dict(value)}, indent=1, sort_keys=True, allow_nan=False)
        self._write("remember the last run", f"last/{_file_name(name)}", text)

    def pin(self, kind: str, key: str, reason: str) -> None:
        """Keep an entry from garbage collection until `unpin`, for a reason that `gc` prints."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._write("pin an entry", _pin(kind, key), json.dumps({"reason": reason, "since": since}))

    def unpin(self, kind: str, key: str) -> None:
        """Let an entry be collected again."""
        file = self._context.root / _pin(kind, key)
        with explained("unpin an entry", file):
            file.unlink(missing_ok=True)
        self._share(lambda upstream: upstream.drop_note(_pin(kind, key)))

    def pinned(self, kind: str, key: str) -> str | None:
        """Return why an entry is pinned, None when it is not; a damaged pin still holds."""
        place = _pin(kind, key)
        if not (self._context.root / place).exists() and place.removeprefix("pins/") not in self._shared_pins:
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(self._data(place) or b"")["reason"])
        return "pinned"

    @cached_property
    def _shared_pins(self) -> frozenset[str]:
        """The pins that others have set, asked for once."""
        if self._context.upstream is None:
            return frozenset()
        try:
            return self._context.upstream.note_names("pins")
        except UpstreamError as error:
            self._context.warn(f"store: pins that others have set are not known: {error}")
            return frozenset()

    def _data(self, place: str) -> bytes | None:
        """Return a note's bytes from here, else from what is shared; raises OSError."""
        try:
            return (self._context.root / place).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            pass
        try:
            return None if self._context.upstream is None else self._context.upstream.note(place)
        except UpstreamError as error:
            self._context.warn(f"store: {error}")
            return None

    def _write(self, action: str, place: str, text: str) -> None:
        file = self._context.root / place
        with explained(action, file):
            self._context.prepare()
            write_atomically(file, text.encode("ascii"))
        self._share(lambda upstream: upstream.put_note(place, text.encode("ascii")))

    def _share(self, act: Callable[[Upstream], None]) -> None:
        upstream = self._context.upstream
        if upstream is None or upstream.readonly:
            return
        try:
            act(upstream)
        except UpstreamError as error:
            self._context.warn(f"store: a note stays on this machine: {error}")


def _pin(kind: str, key: str) -> str:
    return f"pins/{kind}-{key}.json"


def _file_name(name: str) -> str:
    """Keep a plain name readable; give any other one a digest."""
    return f"{name if _PLAIN_NAME.fullmatch(name) else 'n-' + sha256_hex(name.encode())}.json"
