"""Every way a session can end keeps the schema, and a broken record is named by its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_finetune.record.validate import RecordError, problems, schema, validate


def test_the_schema_is_itself_a_valid_schema() -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(schema())


def test_every_way_a_session_can_end_keeps_the_schema(sample: Any) -> None:
    validate(sample.record)


def test_hostile_text_keeps_the_schema(hostile: Any) -> None:
    validate(hostile.record)


def test_keys_that_a_reader_does_not_know_are_allowed(make: Callable[[str], Any]) -> None:
    record = make("keep").record
    record["experiments"][0]["memory"]["layer"] = "model.layers.3"
    record["experiments"][0]["gate"] = None
    assert problems(record) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("schema_version",), "2", "$.schema_version: '1' was expected"),
        (("experiments", 0, "key"), "short", "$.experiments[0].key"),
        (("experiments", 0, "decision", "verdict"), "ship it", "$.experiments[0].decision"),
        (("experiments", 0, "decision", "keep"), False, "$.experiments[0].decision"),
        (
            ("experiments", 0, "arms", "tuned", "rules", "priority", "interval"),
            [0.5],
            "$.experiments[0].arms.tuned",
        ),
        (
            ("experiments", 0, "rules", "priority", "outcome"),
            "green",
            "$.experiments[0].rules.priority.outcome",
        ),
        (("experiments", 0, "comparisons", 0, "p_value"), 1.5, "$.experiments[0].comparisons[0].p_value"),
        (("tests", 0, "seconds"), -1, "$.tests[0].seconds"),
    ],
)
def test_a_broken_value_is_named_by_its_place(
    make: Callable[[str], Any], path: tuple[Any, ...], value: object, said: str
) -> None:
    record = make("keep").record
    part = record
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(RecordError) as caught:
        validate(record)
    assert said in str(caught.value)


def test_a_missing_part_must_be_written_as_null(make: Callable[[str], Any]) -> None:
    record = make("crash").record
    del record["experiments"][0]["training"]
    assert problems(record) == ["$.experiments[0]: 'training' is a required property"]


def test_at_most_ten_problems_are_spelled_out() -> None:
    wrong = {"nodeid": 1, "stage": 1, "outcome": 1, "seconds": "x"}
    record = {"schema_version": "1", "created": "2026-01-01T00:00:00Z", "command": "pytest", "exit_status": 0,
              "experiments": [], "tests": [wrong] * 4}  # fmt: skip
    with pytest.raises(RecordError, match=r"and 6 more$"):
        validate(record)
