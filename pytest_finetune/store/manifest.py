"""The manifest of an entry: what belongs to it, byte for byte, and the check that it is still so."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pytest_finetune.fingerprint import importing_keys, sha256_hex
from pytest_finetune.fingerprint.sealed import open_file, sealed, sha256_of, unsealed, walk
from pytest_finetune.safetensors_check import TensorFileError, nonfinite
from pytest_finetune.store import disk

MANIFEST: Final = "MANIFEST.json"
_SCHEMA: Final = 1
_INDENT: Final = 1
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


def seal(
    folder: Path, kind: str, key: str, about: Mapping[str, object], fields: Mapping[str, object]
) -> None:
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
    found = sorted(walk(folder, DefectError, empty_folders=False))
    return {
        name: FileRecord(sha256_of(folder / name, links=False), size)
        for name, size in found
        if name != MANIFEST
    }


def render(
    kind: str,
    key: str,
    files: Mapping[str, FileRecord],
    about: Mapping[str, object],
    fields: Mapping[str, object],
    created: str,
) -> bytes:
    """Return the manifest's bytes; it carries a digest of itself, so that no bit of it can turn unseen."""
    body = {
        "schema": _SCHEMA,
        "kind": kind,
        "key": key,
        "created": created,
        "files": {name: {"sha256": file.sha256, "size": file.size_bytes} for name, file in files.items()},
        "fields": dict(fields),
        "about": dict(about),
    }
    return sealed(body, _INDENT)


def parse(data: bytes, kind: str, key: str, path: Path) -> Entry:
    """Read a manifest; DefectError unless it is exactly what `render` wrote for this kind and key."""
    tree = unsealed(data, _INDENT)
    if tree is None:
        raise DefectError(f"{MANIFEST} is damaged")
    try:
        if (tree["kind"], tree["key"]) != (kind, key):
            raise DefectError(f"{MANIFEST} belongs to {tree['kind']}/{tree['key']}")
        if tree["schema"] != _SCHEMA:
            raise DefectError(f"{MANIFEST} has schema {tree['schema']!r}, this version reads {_SCHEMA}")
        files = {name: FileRecord(file["sha256"], file["size"]) for name, file in tree["files"].items()}
        return Entry(kind, key, path, tree["about"], sha256_hex(data), files, tree["fields"], tree["created"])
    except (LookupError, AttributeError, TypeError):
        raise DefectError(f"{MANIFEST} is damaged") from None


def verify(folder: Path, kind: str, key: str) -> Entry:
    """Check an entry on the disk against its manifest, every byte of every file.

    Raises DefectError for anything that was not committed: a changed, missing or foreign file, a link, an
    unsound tensor file; FileNotFoundError when there is no entry at all.
    """
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise DefectError("a link or a file stands in place of the entry's folder")
    found = dict(walk(folder, DefectError, empty_folders=False))
    if MANIFEST not in found:
        raise DefectError(f"{MANIFEST} is missing")
    entry = parse(_bytes(folder / MANIFEST), kind, key, folder)
    _compare_names(found.keys() - {MANIFEST}, entry.files.keys())
    for name, record in entry.files.items():
        if found[name] != record.size_bytes:
            raise DefectError(f"{name} has {found[name]} bytes, {record.size_bytes} were committed")
        if sha256_of(folder / name, links=False) != record.sha256:
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


def _compare_names(found: Set[str], committed: Set[str]) -> None:
    if found - committed:
        raise DefectError(f"{min(found - committed)} is a foreign file")
    if committed - found:
        raise DefectError(f"{min(committed - found)} is missing")


def _bytes(file: Path) -> bytes:
    with open_file(file) as stream:
        return stream.read()
