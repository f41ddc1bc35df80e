"""Keys: what the bytes of an adapter or of an answer depend on, as one digest that can explain itself."""

from __future__ import annotations

from pytest_finetune.fingerprint.base import (
    BaseDigest,
    BaseModelError,
    DigestCache,
    base_digest,
    importing_keys,
)
from pytest_finetune.fingerprint.canonical import canonical_json, digest, plain, sha256_hex
from pytest_finetune.fingerprint.hub import base_folder, cached_snapshot
from pytest_finetune.fingerprint.keys import (
    ABSENT,
    Key,
    adapter_digest,
    adapter_key,
    model_digest,
    outputs_key,
    package_versions,
)
from pytest_finetune.fingerprint.sealed import sha256_of

__all__ = [
    "ABSENT",
    "BaseDigest",
    "BaseModelError",
    "DigestCache",
    "Key",
    "adapter_digest",
    "adapter_key",
    "base_digest",
    "base_folder",
    "cached_snapshot",
    "canonical_json",
    "digest",
    "importing_keys",
    "model_digest",
    "outputs_key",
    "package_versions",
    "plain",
    "sha256_hex",
    "sha256_of",
]
