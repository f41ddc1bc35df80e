"""Answers that know nothing of the question: the commonest answer of the training rows, and the question itself.

Whoever cannot beat these has learnt a format, or nothing. They cost no model, so every run asks them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from pytest_finetune.data.strict_json import StrictParser

if TYPE_CHECKING:
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Row

MAJORITY: Final = "majority"
COPY: Final = "copy"

ROWS_A_VALUE: Final = 3
"""From this many training rows a value on, the values of a place are a closed set of labels and no free text."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
_Place = tuple[str, ...]


class Trivial(NamedTuple):
    """An opponent without a model: its name, what the record says of it, and its answer to a row.

    `says` is the label that it always answers, as short as it can be told; empty where it has none.
    """

    name: Literal["majority", "copy"]
    described: str
    answer: Callable[[Row], str]
    says: str = ""


def trivial_opponent(contract: Contract, training: Sequence[Row]) -> Trivial | None:
    """Return the opponent that fits the task.

    Where the answers have a closed set of labels it says the commonest training label in the task's own format, to
    every question alike. Where the answers are free text it gives the question back. None where no trivial answer
    could pass: free JSON, or no training rows.
    """
    outputs = [row.output for row in training]
    constant = _commonest(contract, outputs)
    if constant is not None:
        shown = constant if len(constant) <= 120 else constant[:117] + "..."
        described = f"answers every question with {shown!r}, the commonest of {len(outputs)} training answers"
        return Trivial(MAJORITY, described, lambda row: constant, contract.label_of(constant) or constant)
    if not outputs or contract.output_format == "json" or all(_object(output) for output in outputs):
        return None
    return Trivial(COPY, "gives the question back as the answer", lambda row: row.input or row.instruction)


def _commonest(contract: Contract, outputs: Sequence[str]) -> str | None:
    """Return the answer with the commonest value at every place that holds labels; None where no place does."""
    parsed = [_object(output) for output in outputs]
    objects = [value for value in parsed if value is not None]
    if not objects or len(objects) < len(outputs):
        return _commonest_text(contract, outputs)
    closed = _closed_places(objects, _declared(contract))
    if not any(len(values) > 1 for values in closed.values()):
        return None
    wanted = {place: json.loads(values.most_common(1)[0][0]) for place, values in closed.items()}
    # The row that needs the fewest changes: what is free text in it then goes with its labels.
    nearest = max(
        range(len(objects)), key=lambda i: sum(_at(objects[i], place) == wanted[place] for place in wanted)
    )
    composed = objects[nearest]
    for place, value in wanted.items():
        composed = _with(composed, place, value)
    text = json.dumps(composed, ensure_ascii=False)
    return outputs[nearest] if contract.problems_of(text) else text


def _commonest_text(contract: Contract, outputs: Sequence[str]) -> str | None:
    counted = Counter(outputs)
    declared = contract.labels is not None and contract.labels.field is None
    if len(counted) < 2 or not (declared or _closed(counted)):
        return None
    return counted.most_common(1)[0][0]


def _closed(values: Counter[str]) -> bool:
    return values.total() >= ROWS_A_VALUE * len(values)


def _closed_places(
    objects: Sequence[dict[str, Json]], declared: Collection[_Place]
) -> Mapping[_Place, Counter[str]]:
    """Return the values, as JSON, at each place of every answer that holds few different ones, or is declared."""
    found: dict[_Place, Counter[str]] = {}
    for value in objects:
        for place, leaf in _leaves(value):
            found.setdefault(place, Counter())[json.dumps(leaf, sort_keys=True)] += 1
    return {
        place: values
        for place, values in found.items()
        if values.total() == len(objects) and (place in declared or _closed(values))
    }


def _declared(contract: Contract) -> Collection[_Place]:
    """Return the places that the contract says hold labels: its label field, and an enum of its schema."""
    places: set[_Place] = set()
    if contract.labels is not None and contract.labels.field is not None:
        places.add(tuple(contract.labels.field.split(".")))
    return places | set(_enums(contract.schema or {}))


def _enums(schema: object, place: _Place = ()) -> Iterable[_Place]:
    if not isinstance(schema, Mapping):
        return
    if "enum" in schema and place:
        yield place
    properties = schema.get("properties")
    for name, inner in properties.items() if isinstance(properties, Mapping) else ():
        yield from _enums(inner, (*place, name))


def _leaves(value: Json, place: _Place = ()) -> Iterable[tuple[_Place, Json]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*place, key))
    else:
        yield place, value


def _at(value: Json, place: _Place) -> Json:
    for key in place:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _with(value: dict[str, Json], place: _Place, leaf: Json) -> dict[str, Json]:
    """Return a copy with another value at one place."""
    key, *rest = place
    inner = value.get(key)
    return {**value, key: _with(inner, tuple(rest), leaf) if rest and isinstance(inner, dict) else leaf}


def _object(text: str) -> dict[str, Json] | None:
    parsed = StrictParser().parse(text)
    return parsed.value if not parsed.faults and isinstance(parsed.value, dict) else None
