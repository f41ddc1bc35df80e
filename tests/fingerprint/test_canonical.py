from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_finetune.fingerprint import canonical_json, digest, plain, sha256_hex

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), TREES), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(tree: dict[str, Any], random: Any) -> None:
    names = list(tree)
    random.shuffle(names)
    assert canonical_json({name: tree[name] for name in names}) == canonical_json(tree)


@given(TREES)
def test_it_reads_back_as_the_same_json_value(tree: Any) -> None:
    assert json.loads(canonical_json(tree)) == tree


@given(TREES, TREES)
def test_different_trees_have_different_digests(left: Any, right: Any) -> None:
    assume(json.dumps(plain(left), sort_keys=True) != json.dumps(plain(right), sort_keys=True))
    assert digest(left) != digest(right)


def test_text_numbers_and_truth_are_told_apart() -> None:
    assert len({digest(value) for value in (1, "1", True, 1.5, "1.5", None, "null", [1], {"1": 1})}) == 9


def test_a_whole_float_is_the_integer_that_it_equals() -> None:
    assert canonical_json({"epochs": 2.0}) == canonical_json({"epochs": 2}) == b'{"epochs":2}'
    assert canonical_json(-0.0) == b"0"
    assert canonical_json(1e300) == b"1e+300"


def test_tuples_and_dataclasses_are_the_json_that_they_hold() -> None:
    @dataclass(frozen=True, slots=True)
    class Point:
        x: int
        names: tuple[str, ...]
        more: Mapping[str, object]

    assert plain(Point(1, ("a", "b"), {"z": (2,)})) == {"x": 1, "names": ["a", "b"], "more": {"z": [2]}}


def test_a_set_has_one_order() -> None:
    assert canonical_json(frozenset("cab")) == b'["a","b","c"]'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        canonical_json([value])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Path("x"), "digest what lies there"),
        (object(), "no canonical form"),
        (b"x", "bytes"),
        ({1: "x"}, "must be text"),
    ],
)
def test_what_has_no_stable_form_is_refused(value: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        canonical_json({"key": value})


def test_the_digest_is_sha256_of_the_canonical_bytes() -> None:
    assert digest({"b": 1, "a": "ü"}) == sha256_hex(b'{"a":"\\u00fc","b":1}')
