"""What an answer is as JSON."""

from __future__ import annotations

import pytest

from pytest_finetune.answering.response import NotJson, Response
from pytest_finetune.data.strict_json import StrictParser


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e308", 1e308), ("9007199254740993", 9007199254740993), ("-0.5", -0.5), (f"1{'0' * 400}", 10**400)],
)
def test_a_number_stays_what_it_is(text: str, value: float) -> None:
    found = Response(text).json()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("number", ["1e999", "-1e999", '{"a": [1e400]}', "NaN", "-Infinity", "9" * 5000])
def test_a_number_that_is_none_is_refused_as_by_strict_json(number: str) -> None:
    parser = StrictParser()
    assert parser.parse(number).faults
    with pytest.raises(NotJson, match="not strict JSON"):
        Response(number).json()


@pytest.mark.parametrize("number", ["1e999", "9" * 5000])
def test_it_is_refused_in_the_words_of_strict_json(number: str) -> None:
    (fault,) = StrictParser().parse(number).faults
    with pytest.raises(NotJson) as refused:
        Response(number).json()
    assert str(refused.value) == f"not strict JSON: {fault.read}"
