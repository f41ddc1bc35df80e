"""Canonical JSON: one byte string for one value, whatever the order in which it was written down."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any, Final

FLOAT: Final = "__float__"
_EXACT_INTEGERS: Final = 2.0**53


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def plain(value: object) -> object:
    """Turn dataclasses, mappings and sequences into a JSON tree.

    Sets become sorted lists. A mapping key that is not text, a number that is not finite and any
    other type raise TypeError or ValueError: a key must never depend on a `repr`.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return {_name(key): plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted((plain(item) for item in value), key=canonical_json)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    if isinstance(value, PurePath):
        raise TypeError(f"a path cannot be part of a key, digest what lies there instead: {str(value)!r}")
    raise TypeError(f"{type(value).__name__} has no canonical form: {value!r}")


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, object]:
    """Return the leaves of nested mappings by dotted name; lists and empty mappings are leaves.

    >>> flat({"lora": {"r": 8, "target_modules": ["q"]}, "seed": 0, "sft": {}})
    {'lora.r': 8, 'lora.target_modules': ['q'], 'seed': 0, 'sft': {}}
    """
    found: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def portable(tree: object) -> Any:
    """Write the numbers of a JSON tree that JSON has no name for, such as Infinity, as transformers writes them.

    >>> portable({"time_step_limit": [0.0, float("inf")]})
    {'time_step_limit': [0.0, {'__float__': 'Infinity'}]}
    """
    if isinstance(tree, float) and not math.isfinite(tree):
        return {FLOAT: "NaN" if math.isnan(tree) else "Infinity" if tree > 0 else "-Infinity"}
    if isinstance(tree, dict):
        return {name: portable(value) for name, value in tree.items()}
    return [portable(value) for value in tree] if isinstance(tree, list) else tree


def numbers(tree: object) -> Any:
    """Read what `portable` has written.

    >>> numbers({"time_step_limit": [0.0, {"__float__": "Infinity"}]})
    {'time_step_limit': [0.0, inf]}
    """
    if isinstance(tree, dict):
        if tree.keys() == {FLOAT} and tree[FLOAT] in ("NaN", "Infinity", "-Infinity"):
            return float(tree[FLOAT])
        return {name: numbers(value) for name, value in tree.items()}
    return [numbers(value) for value in tree] if isinstance(tree, list) else tree


def canonical_json(value: object) -> bytes:
    """Serialise `value` as ASCII JSON with sorted keys and no spaces.

    Equal trees give equal bytes. A whole float is written as an integer, as in RFC 8785, so `2` and
    `2.0` in an experiment file are one value; `1`, `True` and `"1"` stay three.

    >>> canonical_json({"b": (1, 2.0), "a": 2e-4})
    b'{"a":0.0002,"b":[1,2]}'
    """
    tree = plain(value)
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(value: object) -> str:
    """Return the SHA-256 of the canonical JSON of `value`."""
    return sha256_hex(canonical_json(value))


def _name(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a mapping key must be text, not {type(key).__name__}: {key!r}")
    return key


def _number(value: float) -> float | int:
    if not math.isfinite(value):
        raise ValueError(f"a number that is not finite cannot be part of a key: {value!r}")
    return int(value) if value.is_integer() and abs(value) < _EXACT_INTEGERS else float(value)
