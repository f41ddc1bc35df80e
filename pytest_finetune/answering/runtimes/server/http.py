"""JSON over HTTP with the standard library: one request, and one that is repeated while that can help."""

from __future__ import annotations

import http.client
import json
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from pytest_finetune.yamlfile import Json

RETRIED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_SHOWN: Final = 400
_MOST_BYTES: Final = 64 * 1024 * 1024

Told = TypeVar("Told")


class WireError(Exception):
    """No usable answer; `again` says whether the same request may succeed later, `after_s` when the server says so."""

    def __init__(
        self, text: str, *, again: bool, status: int | None = None, after_s: float | None = None
    ) -> None:
        super().__init__(text)
        self.again = again
        self.status = status
        self.after_s = after_s


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host, and is no answer of a completion server anyway."""

    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Wire:
    """How a server is reached: base address, key (never shown), seconds without a byte until it counts as hung."""

    url: str
    timeout_s: float
    key: str | None = field(default=None, repr=False)

    def get(self, path: str, timeout_s: float | None = None) -> object:
        """Return the JSON at a path; WireError."""
        return self._ask(path, None, timeout_s or self.timeout_s)

    def post(self, path: str, body: Json) -> Any:
        """Return the JSON that the server answers to a JSON body; WireError."""
        return self._ask(path, json.dumps(body).encode("utf-8"), self.timeout_s)

    def _ask(self, path: str, body: bytes | None, timeout_s: float) -> object:
        request = urllib.request.Request(f"{self.url.rstrip('/')}{path}", data=body)
        request.add_header("Accept", "application/json")
        if body is not None:
            request.add_header("Content-Type", "application/json")
        if self.key is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        try:
            with self._opener().open(request, timeout=timeout_s) as response:
                data = response.read(_MOST_BYTES + 1)
                # A read of at most so many bytes is silent about an end that comes too early.
                if response.length and len(data) <= _MOST_BYTES:
                    raise WireError(f"the connection ended {response.length} bytes early", again=True)
                return self._parsed(data)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except TimeoutError:
            raise WireError(f"no answer within {timeout_s:g} s", again=True) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise WireError(f"no answer within {timeout_s:g} s", again=True) from None
            raise WireError(self._shown(f"{type(reason).__name__}: {reason}"), again=True) from None

    def _opener(self) -> urllib.request.OpenerDirector:
        """A server on this machine is never asked through a proxy."""
        own = urlsplit(self.url).hostname in ("127.0.0.1", "::1", "localhost")
        proxies = [urllib.request.ProxyHandler({})] if own else []
        return urllib.request.build_opener(_NoRedirect, *proxies)

    def _parsed(self, data: bytes) -> object:
        if len(data) > _MOST_BYTES:
            raise WireError(f"the answer is longer than {_MOST_BYTES:,} bytes", again=False)
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            text = data[:_SHOWN].decode("utf-8", errors="replace")
            raise WireError(
                f"the answer is no JSON: {self._shown(text)!r}", again=False, status=200
            ) from None

    def _refused(self, error: urllib.error.HTTPError) -> WireError:
        with error:
            try:
                text = error.read(_MOST_BYTES).decode("utf-8", errors="replace")
            except (OSError, http.client.HTTPException):
                text = ""
        told = self._shown(text)
        after = error.headers.get("Retry-After", "") if error.headers else ""
        return WireError(
            f"HTTP {error.code}" + (f": {told}" if told else ""),
            again=error.code in RETRIED,
            status=error.code,
            after_s=float(after) if after.isdigit() else None,
        )

    def _shown(self, text: str) -> str:
        """Return text of the server in one line, without the key."""
        plain = " ".join(text.split())
        return (plain.replace(self.key, "***") if self.key else plain)[:_SHOWN]


def persistently(
    ask: Callable[[], Told], retries: int, stop: threading.Event, heard: Callable[[str], None] | None = None
) -> Told:
    """Return what `ask` returns; repeat it up to `retries` times while its WireError says that this can help.

    The pauses double from half a second to half a minute, each drawn from its upper half so that many askers
    do not come back at once; a longer wait that the server asks for is kept, up to the same limit. `stop` ends
    the waiting.
    """
    for attempt in range(retries + 1):
        try:
            return ask()
        except WireError as error:
            if not error.again or attempt == retries or stop.is_set():
                raise
            if heard is not None:
                heard(str(error))
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
            wanted = max(pause * random.uniform(0.5, 1.0), error.after_s or 0.0)
            stop.wait(min(wanted, _LONGEST_PAUSE_S))
    raise AssertionError("unreachable")
