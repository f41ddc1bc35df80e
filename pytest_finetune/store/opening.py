"""Which store an address names: a folder, a URL with a cache in front of it, or one of them that is only read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_finetune.fingerprint import sha256_hex
from pytest_finetune.store.disk import StoreError
from pytest_finetune.store.folders import Store
from pytest_finetune.store.shared.bucket import Bucket
from pytest_finetune.store.shared.folder import SharedFolder
from pytest_finetune.store.shared.remote import RemoteStore

CACHE: Final = ".finetune-cache"


def is_url(named: str) -> bool:
    """Tell a URL from a folder.

    >>> is_url("s3://bucket/prefix"), is_url(".finetune")
    (True, False)
    """
    return "://" in named


def open_store(named: str, project: Path, *, readonly: bool = False) -> Store:
    """Open the store at a folder (relative to the project) or a URL; nothing is written.

    A shared store that is on a URL or only read has a folder of its own in front of it, below ``.finetune-cache/`` in
    the project, which takes what is made or brought here. Raises StoreError for an address that is invalid, for
    a package that is missing, and for a folder to be only read that is not there.
    """
    if is_url(named):
        bucket = Bucket(named)
        return Store(_cache(project, bucket.url), RemoteStore(bucket, readonly=readonly))
    root = (project / Path(named).expanduser()).absolute()
    if not readonly:
        return Store(root)
    if not root.is_dir():
        raise StoreError(
            f"store {named!r}: there is no such folder to read ({root}); write there first, or "
            "leave --finetune-store-readonly out"
        )
    return Store(_cache(project, str(root)), SharedFolder(root))


def _cache(project: Path, address: str) -> Path:
    return project / CACHE / sha256_hex(address.encode())[:8]
