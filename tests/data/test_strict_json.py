"""The parser agrees with json on values and sees what json swallows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.data.strict_json import MAX_DEPTH, StrictParser, depth

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


@given(value=JSON, indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_any_json_value_is_read_as_json_reads_it(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    parsed = StrictParser().parse(f" {text}\n")
    assert parsed.faults == ()
    assert parsed.value == json.loads(text)


@given(text=st.text(max_size=60))
def test_whatever_json_refuses_is_a_fault_and_no_exception(text: str) -> None:
    faults = StrictParser().parse(text).faults
    try:
        json.loads(text)
    except ValueError:
        assert faults


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ('{"a": 1, "a": 1}', ["duplicate-key"]),
        ('[{"a": {"b": 1, "b": 2}}]', ["duplicate-key"]),
        ("NaN", ["non-finite"]),
        ("[1e999]", ["non-finite"]),
        ("-1e999", ["non-finite"]),
        ("9" * 5000, ["non-finite"]),
        ('"\\ud83d"', ["lone-surrogate"]),
        ('{"\\udc00": 1}', ["lone-surrogate"]),
        ("{} {}", ["syntax"]),
        ("", ["syntax"]),
        ("'a'", ["syntax"]),
        ("[NaN, NaN]", ["non-finite"]),
    ],
)
def test_what_a_lenient_parser_swallows_is_a_fault(text: str, kinds: list[str]) -> None:
    assert [fault.kind for fault in StrictParser().parse(text).faults] == kinds


def test_a_whole_surrogate_pair_is_no_fault() -> None:
    assert StrictParser().parse('"\\ud83d\\ude00"').faults == ()


def test_faults_of_one_text_are_not_told_of_the_next() -> None:
    parser = StrictParser()
    assert parser.parse("NaN").faults
    assert parser.parse("1").faults == ()


@pytest.mark.parametrize("levels", [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 100_000])
def test_nesting_is_limited(levels: int) -> None:
    kinds = [fault.kind for fault in StrictParser().parse("[" * levels + "]" * levels).faults]
    assert kinds == (["deep-nesting"] if levels > MAX_DEPTH else [])


def test_brackets_in_texts_do_not_nest() -> None:
    assert depth('{"a": "[[[[{{{{\\"[["}') == 1
    assert StrictParser().parse(json.dumps("[" * 1000)).faults == ()
