"""Objects behind a URL, through fsspec: whole reads and whole writes, and errors that a user can act on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pytest_finetune.errors import install
from pytest_finetune.store.disk import StoreError
from pytest_finetune.store.shared.upstream import UpstreamError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

INSTALL: Final = install("remote")
# Here a name is just a name. Elsewhere its folder has to be made; asking one of these to do so could make a bucket.
_FLAT: Final = frozenset(
    {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "r2", "memory"}
)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PAUSE_S: Final = 60.0  # after a failed read, the network is not asked again for so long
_SHOWN: Final = 200

T = TypeVar("T")


def check_url(url: str) -> None:
    """Raise StoreError for a URL that cannot name a store; imports nothing."""
    if "::" in url:
        raise StoreError(
            f"store {url!r}: a chain of file systems cannot be a store: name the last one alone (a local cache is "
            "kept in front of it anyway)"
        )
    if not _SCHEME.match(url):
        raise StoreError(f"store {url!r}: write a folder or scheme://place, such as s3://bucket/prefix")
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise StoreError(
            f"store {url.partition('://')[0]}://…: a user name or password in the address would stand in the record: "
            "give credentials through the environment"
        )


class Bucket:
    """Everything below one URL. Its file system's package is imported when a Bucket is made.

    Names are relative, with slashes. All methods raise UpstreamError when the place cannot be reached or refuses.
    """

    def __init__(self, url: str) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        self._files, root = _file_system(url)
        self._root = str(root).rstrip("/")
        protocols = self._files.protocol
        self._flat = not _FLAT.isdisjoint([protocols] if isinstance(protocols, str) else protocols)
        self._rest: tuple[float, str] | None = None

    def get(self, name: str) -> bytes | None:
        """Return one object, None when there is none."""
        return self._read(f"read {name}", lambda: bytes(self._files.cat_file(self._at(name))), None)

    def get_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return those of the named objects that are there; at once where the file system can."""
        asked = {self._at(name): name for name in names}
        if not asked:
            return {}

        def ask() -> Mapping[str, object]:
            found: Mapping[str, object] = self._files.cat(list(asked), on_error="return")
            return found

        found: Mapping[str, object] = self._read(f"read {len(asked)} objects", ask, {})
        lost = next((e for e in found.values() if isinstance(e, Exception) and not _absent(e)), None)
        if lost is not None:
            raise self._trouble(f"read {len(asked)} objects", lost)
        return {
            asked[self._files._strip_protocol(path)]: bytes(data)
            for path, data in found.items()
            if isinstance(data, bytes)
        }

    def names(self, folder: str) -> list[str]:
        """Name what lies directly below a folder, sorted; nothing when there is no such folder."""

        def ask() -> list[str]:
            self._files.invalidate_cache()
            return sorted(str(path).rstrip("/") for path in self._files.ls(self._at(folder), detail=False))

        nothing: list[str] = []
        found = self._read(f"list {folder}", ask, nothing)
        return [path.rpartition("/")[2] for path in found if path != self._at(folder)]

    def download(self, name: str, file: Path) -> bool:
        """Write one object into a new file; False when there is none."""

        def ask() -> bool:
            self._files.get_file(self._at(name), str(file))
            return True

        return self._read(f"read {name}", ask, False)

    def upload(self, file: Path, name: str) -> None:
        """Write a file under a name, in place of what is there."""

        def put() -> None:
            self._prepare(name)
            self._files.put_file(str(file), self._at(name))

        self._write(f"upload {name}", put)

    def put(self, name: str, data: bytes) -> None:
        """Write an object in place of what is there."""

        def put() -> None:
            self._prepare(name)
            self._files.pipe_file(self._at(name), data)

        self._write(f"write {name}", put)

    def put_first(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one; False when there is another one.

        In one step where the file system knows how (S3, Google Cloud Storage); elsewhere two writers may both
        be told that they were first, and the last of them was.
        """
        if (there := self.get(name)) is not None:
            return there == data

        def put() -> None:
            self._prepare(name)
            self._files.pipe_file(self._at(name), data, mode="create")

        try:
            self._write(f"write {name}", put)
        except UpstreamError:
            if self.get(name) is None:
                raise
        return self.get(name) == data

    def remove(self, name: str) -> None:
        """Remove an object; nothing happens when there is none."""
        self._write(f"remove {name}", lambda: self._files.rm_file(self._at(name)), absent_is_fine=True)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _prepare(self, name: str) -> None:
        if not self._flat:
            self._files.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)

    def _read(self, action: str, ask: Callable[[], T], absent: T) -> T:
        if self._rest is not None and time.monotonic() < self._rest[0]:
            raise UpstreamError(self._rest[1])
        try:
            return ask()
        except Exception as error:
            if _absent(error):
                return absent
            trouble = self._trouble(action, error)
            self._rest = (time.monotonic() + _PAUSE_S, str(trouble))
            raise trouble from error

    def _write(self, action: str, put: Callable[[], object], *, absent_is_fine: bool = False) -> None:
        try:
            put()
        except Exception as error:
            if absent_is_fine and _absent(error):
                return
            raise self._trouble(action, error) from error

    def _trouble(self, action: str, error: Exception) -> UpstreamError:
        """Say what failed. Every backend has errors of its own, so the kind of error stands beside its text."""
        said = (str(error).splitlines() or [""])[0][:_SHOWN]
        return UpstreamError(f"cannot {action} at {self.url}: {type(error).__name__}: {said}")


def _absent(error: Exception) -> bool:
    """Tell that only this object is missing; a missing bucket is another matter."""
    return isinstance(error, FileNotFoundError) and "bucket does not exist" not in str(error)


def _file_system(url: str) -> tuple[AbstractFileSystem, str]:
    scheme = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise StoreError(f"store {url!r}: a store on a URL needs fsspec: {INSTALL}") from None
    try:
        files, root = url_to_fs(url)
    except ImportError as error:
        needed = INSTALL if scheme in {"s3", "s3a"} else f"{INSTALL}, and the package of {scheme}://"
        raise StoreError(f"store {url!r}: {error}; {needed}") from None
    except Exception as error:
        raise StoreError(f"store {url!r} cannot be opened: {type(error).__name__}: {error}") from error
    found: tuple[Any, str] = (files, root)
    return found
