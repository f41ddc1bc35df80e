"""Small facts that outlive a session: the last run, and which entries must never be collected."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pytest_finetune.fingerprint import sha256_hex
from pytest_finetune.store.disk import explained, write_atomically
from pytest_finetune.store.ground import Ground

_PLAIN_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,79}")


class Notes:
    """One JSON file for each note, replaced atomically."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def last(self, name: str) -> Mapping[str, Any] | None:
        """Return the note under `name`, None when there is none or it is damaged (with a warning)."""
        file = self._ground.root / "last" / _file_name(name)
        try:
            note = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            self._ground.warn(
                f"store: {file} cannot be read ({type(error).__name__}); the last run is unknown"
            )
            return None
        return note["value"] if isinstance(note, dict) and isinstance(note.get("value"), dict) else None

    def remember(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace the note under `name`; StoreError when it cannot be written."""
        file = self._ground.root / "last" / _file_name(name)
        text = json.dumps({"name": name, "value": dict(value)}, indent=1, sort_keys=True, allow_nan=False)
        with explained("remember the last run", file):
            self._ground.prepare()
            write_atomically(file, text.encode("ascii"))

    def pin(self, kind: str, key: str, reason: str) -> None:
        """Keep an entry from garbage collection until `unpin`, for a reason that `gc` prints."""
        file = self._pin(kind, key)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        with explained("pin an entry", file):
            self._ground.prepare()
            write_atomically(file, json.dumps({"reason": reason, "since": since}).encode("ascii"))

    def unpin(self, kind: str, key: str) -> None:
        """Let an entry be collected again."""
        file = self._pin(kind, key)
        with explained("unpin an entry", file):
            file.unlink(missing_ok=True)

    def pinned(self, kind: str, key: str) -> str | None:
        """Return why an entry is pinned, None when it is not; a damaged pin still holds."""
        file = self._pin(kind, key)
        if not file.exists():
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(file.read_bytes())["reason"])
        return "pinned"

    def _pin(self, kind: str, key: str) -> Path:
        return self._ground.root / "pins" / f"{kind}-{key}.json"


def _file_name(name: str) -> str:
    """Keep a plain name readable; give any other one a digest."""
    return f"{name if _PLAIN_NAME.fullmatch(name) else 'n-' + sha256_hex(name.encode())}.json"
