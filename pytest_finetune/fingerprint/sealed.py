"""Files and the list of them: the digest of a file, the walk over a folder, the manifest with a digest of itself."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from pytest_finetune.fingerprint.canonical import sha256_hex


def sha256_of(file: Path, *, links: bool = True) -> str:
    """Return the SHA-256 of a file's content; without `links`, the system refuses to open a link (OSError)."""
    with file.open("rb") if links else open_file(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_file(file: Path) -> BufferedReader:
    """Open a file for reading; a link is refused by the system (OSError)."""
    return os.fdopen(os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb")


def walk(
    folder: Path, refusal: type[Exception], *, empty_folders: bool, prefix: str = ""
) -> Iterator[tuple[str, int]]:
    """Yield the relative posix name and the size of every file; `refusal` for a link or a special file.

    A manifest lists no folders: without `empty_folders`, one that holds nothing is refused as well.
    """
    with os.scandir(folder) as found:
        children = list(found)
    if prefix and not children and not empty_folders:
        raise refusal(f"{prefix} is an empty folder")
    for child in children:
        name, status = prefix + child.name, child.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            yield from walk(Path(child.path), refusal, empty_folders=empty_folders, prefix=f"{name}/")
        elif stat.S_ISREG(status.st_mode):
            yield name, status.st_size
        else:
            raise refusal(f"{name} is a {'link' if child.is_symlink() else 'special file'}, not a file")


def sealed(body: Mapping[str, object], indent: int) -> bytes:
    """Render a manifest with a digest of itself, so that no bit of it can change unseen."""
    return json_text({**body, "digest": sha256_hex(json_text(body, indent))}, indent)


def unsealed(data: bytes, indent: int) -> dict[str, Any] | None:
    """Return a manifest's content with its digest; None unless these are exactly the bytes that `sealed` makes."""
    try:
        tree: dict[str, Any] = json.loads(data)
        body = {name: value for name, value in tree.items() if name != "digest"}
        return tree if sealed(body, indent) == data else None
    except (ValueError, AttributeError, RecursionError):
        return None


def json_text(tree: Mapping[str, object], indent: int) -> bytes:
    """Render JSON for a file that people read too; the same content always has the same bytes."""
    return (json.dumps(tree, indent=indent, sort_keys=True, allow_nan=False) + "\n").encode("ascii")
