"""Keys: what the bytes of an adapter or of an answer depend on, as one digest that can explain itself."""

from __future__ import annotations

from pytest_finetune.fingerprint.base import (
    BaseDigest,
    DigestCache,
    base_digest,
    configurations,
    importing_keys,
    refuse_code,
)
from pytest_finetune.fingerprint.canonical import (
    canonical_json,
    digest,
    flat,
    numbers,
    plain,
    portable,
    sha256_hex,
)
from pytest_finetune.fingerprint.folder import (
    BaseModelError,
    check_model,
    has_tokenizer,
    holds_weights,
    weight_tensors,
)
from pytest_finetune.fingerprint.hub import base_folder, cached_snapshot
from pytest_finetune.fingerprint.keys import (
    ABSENT,
    WEIGHT_PACKAGES,
    Key,
    adapter_digest,
    adapter_key,
    attention_of,
    installed_version,
    model_digest,
    outputs_key,
    package_versions,
)
from pytest_finetune.fingerprint.layers import match_of_layers
from pytest_finetune.fingerprint.matching import Match
from pytest_finetune.fingerprint.quantization import OwnQuantization, own_quantization
from pytest_finetune.fingerprint.sealed import sha256_of

__all__ = [
    "ABSENT",
    "WEIGHT_PACKAGES",
    "BaseDigest",
    "BaseModelError",
    "DigestCache",
    "Key",
    "Match",
    "OwnQuantization",
    "adapter_digest",
    "adapter_key",
    "attention_of",
    "base_digest",
    "base_folder",
    "cached_snapshot",
    "canonical_json",
    "check_model",
    "configurations",
    "digest",
    "flat",
    "has_tokenizer",
    "holds_weights",
    "importing_keys",
    "installed_version",
    "match_of_layers",
    "model_digest",
    "numbers",
    "outputs_key",
    "own_quantization",
    "package_versions",
    "plain",
    "portable",
    "refuse_code",
    "sha256_hex",
    "sha256_of",
    "weight_tensors",
]
