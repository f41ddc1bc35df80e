"""The manifest of an entry: what belongs to it, byte for byte, and the check that it is still so."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pytest_finetune.fingerprint import importing_keys
from pytest_finetune.safetensors_check import TensorFileError, nonfinite
from pytest_finetune.store import disk

MANIFEST: Final = "MANIFEST.json"
_SCHEMA: Final = 1
_ADAPTER_SUFFIXES: Final = frozenset(
    {".safetensors", ".json", ".jsonl", ".md", ".txt", ".jinja", ".model", ".yaml", ".csv"}
)


class DefectError(Exception):
    """An entry is not what was committed; the message says how."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What the manifest says about one file."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One verified folder of the store.

    `digest` is the SHA-256 of its manifest; `about` is what the writer said about it; `fields` are the
    fields of its key, empty when it was committed under a bare digest; `created` is UTC, ISO 8601.
    """

    kind: str
    key: str
    path: Path
    about: Mapping[str, Any] = field(compare=False)
    digest: str
    files: Mapping[str, FileRecord] = field(repr=False, compare=False)
    fields: Mapping[str, Any] = field(repr=False, compare=False)
    created: str = field(compare=False)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, the manifest left out."""
        return sum(record.size_bytes for record in self.files.values())


def seal(folder: Path, kind: str, key: str, about: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Check what was written, bring it to the disk and list it; the manifest comes last.

    DefectError when this must not become an entry.
    """
    files = describe(folder)
    if not files:
        raise DefectError("nothing was written")
    if (folder / MANIFEST).exists():
        raise DefectError(f"{MANIFEST} is the store's own file")
    if kind == "adapters":
        check_adapter(folder, files)
    for name in files:
        disk.sync_file(folder / name)
    for inner in {parent for name in files for parent in PurePosixPath(name).parents}:
        disk.sync_folder(folder / inner)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    disk.write_durably(folder / MANIFEST, render(kind, key, files, about, fields, created))
    disk.sync_folder(folder)


def describe(folder: Path) -> dict[str, FileRecord]:
    """Hash every file below `folder`; DefectError for a link, a device or an empty folder."""
    found = sorted(_walk(folder))
    return {name: FileRecord(sha256_of(folder / name), size) for name, size in found if name != MANIFEST}


def render(
    kind: str,
    key: str,
    files: Mapping[str, FileRecord],
    about: Mapping[str, Any],
    fields: Mapping[str, Any],
    created: str,
) -> bytes:
    """Return the manifest's bytes; it carries a digest of itself, so that no bit of it can turn unseen."""
    body: dict[str, Any] = {
        "schema": _SCHEMA,
        "kind": kind,
        "key": key,
        "created": created,
        "files": {name: {"sha256": file.sha256, "size": file.size_bytes} for name, file in files.items()},
        "fields": dict(fields),
        "about": dict(about),
    }
    return _text(body | {"digest": _own_digest(body)})


def parse(data: bytes, kind: str, key: str, path: Path) -> Entry:
    """Read a manifest; DefectError unless it is exactly what `render` wrote for this kind and key."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        tree = json.loads(data)
        body = {name: value for name, value in tree.items() if name != "digest"}
        if tree["digest"] != _own_digest(body) or _text(tree) != data:
            raise DefectError(f"{MANIFEST} is damaged")
        if (tree["kind"], tree["key"]) != (kind, key):
            raise DefectError(f"{MANIFEST} belongs to {tree['kind']}/{tree['key']}")
        if tree["schema"] != _SCHEMA:
            raise DefectError(f"{MANIFEST} has schema {tree['schema']!r}, this version reads {_SCHEMA}")
        files = {name: FileRecord(file["sha256"], file["size"]) for name, file in tree["files"].items()}
        return Entry(kind, key, path, tree["about"], digest, files, tree["fields"], tree["created"])
    except (ValueError, LookupError, AttributeError, RecursionError, TypeError):
        raise DefectError(f"{MANIFEST} is damaged") from None


def verify(folder: Path, kind: str, key: str) -> Entry:
    """Check an entry on the disk against its manifest, every byte of every file.

    Raises DefectError for anything that was not committed: a changed, missing or foreign file, a link, an
    unsound tensor file; FileNotFoundError when there is no entry at all.
    """
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise DefectError("a link or a file stands in place of the entry's folder")
    found = dict(_walk(folder))
    if MANIFEST not in found:
        raise DefectError(f"{MANIFEST} is missing")
    entry = parse(_bytes(folder / MANIFEST), kind, key, folder)
    _compare_names(found.keys() - {MANIFEST}, entry.files.keys())
    for name, record in entry.files.items():
        if found[name] != record.size_bytes:
            raise DefectError(f"{name} has {found[name]} bytes, {record.size_bytes} were committed")
        if sha256_of(folder / name) != record.sha256:
            raise DefectError(f"{name} does not match its checksum")
    if kind == "adapters":
        check_adapter(folder, entry.files)
    return entry


def check_adapter(folder: Path, names: Mapping[str, object]) -> None:
    """Raise DefectError unless a folder is an adapter that is safe to load: safetensors only, every number
    finite, nothing in its configuration that makes a library import code.
    """
    tensor_files = [name for name in names if name.endswith(".safetensors")]
    for name in names:
        if Path(name).suffix not in _ADAPTER_SUFFIXES:
            raise DefectError(
                f"{name} does not belong in an adapter (weights must be safetensors, never pickles)"
            )
        if name.endswith("config.json"):
            _check_configuration(folder, name)
    if not tensor_files:
        raise DefectError("there is no safetensors file")
    for name in tensor_files:
        try:
            broken = nonfinite(folder / name)
        except TensorFileError as error:
            raise DefectError(f"{name} cannot be used: {error}") from None
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            raise DefectError(f"{name} holds numbers that are not finite, in {broken[0]}{more}")


def _check_configuration(folder: Path, name: str) -> None:
    try:
        keys = importing_keys(json.loads(_bytes(folder / name)))
    except (ValueError, RecursionError):
        raise DefectError(f"{name} is not readable JSON") from None
    if keys:
        raise DefectError(f"{name} makes a library import code ({', '.join(keys)})")


def _compare_names(found: set[str], committed: object) -> None:
    expected = set(committed)  # type: ignore[call-overload]
    if found - expected:
        raise DefectError(f"{min(found - expected)} is a foreign file")
    if expected - found:
        raise DefectError(f"{min(expected - found)} is missing")


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield the relative posix name and the size of every file; DefectError for whatever else is there."""
    with os.scandir(folder) as found:
        children = list(found)
    if prefix and not children:
        raise DefectError(f"{prefix} is an empty folder")
    for child in children:
        name = prefix + child.name
        status = child.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(Path(child.path), f"{name}/")
        elif stat.S_ISREG(status.st_mode):
            yield name, status.st_size
        else:
            raise DefectError(f"{name} is a {'link' if child.is_symlink() else 'special file'}")


def _text(tree: Mapping[str, Any]) -> bytes:
    return (json.dumps(tree, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def _own_digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(body)).hexdigest()


def _bytes(file: Path) -> bytes:
    handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(handle, "rb") as stream:
        return stream.read()


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file; a link is refused by the system (OSError)."""
    handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(handle, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
