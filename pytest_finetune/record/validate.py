"""Check a record against the schema that ships beside this file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from pytest_finetune.errors import FinetuneError
from pytest_finetune.record.lenient import Json
from pytest_finetune.wording import one_line


class RecordError(FinetuneError, ValueError):
    """A record that breaks its schema; the message names every place, at most ten."""


@cache
def schema() -> dict[str, Any]:
    """Load the JSON Schema (2020-12) of `record.json`."""
    text = (
        resources.files("pytest_finetune.record").joinpath("record.schema.json").read_text(encoding="utf-8")
    )
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def problems(record: object) -> list[str]:
    """List where a record breaks its schema, as `place: what is wrong`, in the order of the document."""
    if _sound(record):
        return []
    from jsonschema import Draft202012Validator

    errors = Draft202012Validator(schema()).iter_errors(record)
    found = [leaf for error in errors for leaf in _leaves(error)]
    return [f"{error.json_path}: {one_line(error.message, 200)}" for error in sorted(found, key=_place)]


def _sound(record: object) -> bool:
    """Tell quickly that nothing is wrong; a record with values that are no JSON is left to the slow check."""
    try:
        return _quick().is_valid(record)  # type: ignore[no-any-return]
    except (TypeError, ValueError):
        return False


@cache
def _quick() -> Any:
    import jsonschema_rs

    return jsonschema_rs.Draft202012Validator(schema())


def validate(record: Json) -> None:
    """Raise `RecordError` unless a record keeps its schema."""
    found = problems(record)
    if found:
        more = [f"and {len(found) - 10} more"] if len(found) > 10 else []
        raise RecordError("; ".join([*found[:10], *more]))


def _leaves(error: Any) -> Iterator[Any]:
    """Follow a part that may also be null to what is wrong inside it."""
    inner = (
        [child for child in error.context if child.schema_path[0] == 0] if error.validator == "anyOf" else []
    )
    if not inner:
        yield error
    for child in inner:
        yield from _leaves(child)


def _place(error: Any) -> str:
    return str(error.json_path)
