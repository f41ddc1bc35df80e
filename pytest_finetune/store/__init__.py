"""The store: content-addressed folders that are verified on every read and written once."""

from __future__ import annotations

from pytest_finetune.store.disk import StoreError, is_full
from pytest_finetune.store.folders import KINDS, Store
from pytest_finetune.store.gc import Collected, Removal, collect
from pytest_finetune.store.growth import Grown, JudgedRow
from pytest_finetune.store.lock import Lock
from pytest_finetune.store.looks import Judged, Look, LookBook
from pytest_finetune.store.manifest import Entry, FileRecord
from pytest_finetune.store.opening import is_url, open_store

__all__ = [
    "KINDS",
    "Collected",
    "Entry",
    "FileRecord",
    "Grown",
    "Judged",
    "JudgedRow",
    "Lock",
    "Look",
    "LookBook",
    "Removal",
    "Store",
    "StoreError",
    "collect",
    "is_full",
    "is_url",
    "open_store",
]
