"""How much of an extraction is right: the fields of nested JSON, each at its place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pytest_finetune.rules.making import as_rule, broken, wrong
from pytest_finetune.rules.shape import parsed

if TYPE_CHECKING:
    from pytest_finetune.answering.response import Response
    from pytest_finetune.data.rows import Row


def field_f1(field: str | None = None, *, ordered: bool = True, **thresholds: object) -> Callable[..., None]:
    """Make a rule that grades: F1 over the fields of the JSON answer, however deep, against the expected answer's.

    A field is right where the same value stands at the same place, in a list at the same index; with `ordered=False`
    the items of a list may come in any order. `field` is the part that is graded, as in ``items`` or ``items.0.price``.
    """
    if field is not None and not (isinstance(field, str) and field):
        raise wrong("field", field, "the place of a part, as in 'items' or 'items.0.price'")

    def field_f1(response: Response, example: Row, score: Callable[[float], None]) -> None:
        wanted = _part(json.loads(example.expected), field)
        if wanted is _ABSENT:
            raise broken(f"the expected answer of {example.place} has nothing at {field!r}")
        given = _part(parsed(response.text), field)
        due, said = (Counter(_leaves(value, "", ordered)) for value in (wanted, given))
        right = (due & said).total()
        score(round(2 * right / (due.total() + said.total()), 12))

    return as_rule(field_f1, thresholds)


_ABSENT = object()


def _part(value: Any, place: str | None) -> Any:
    """Return what stands at a dotted place, where a number is an index; `_ABSENT` when there is no such place."""
    for key in place.split(".") if place else ():
        if isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            return _ABSENT
    return value


def _leaves(value: Any, place: str, ordered: bool) -> Iterator[tuple[str, str]]:
    """Yield every value that holds no other with its place; 1 is 1.0, and neither true nor the text "1"."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}", ordered)
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{place}[{index if ordered else ''}]", ordered)
    elif value is not _ABSENT:
        whole = isinstance(value, float) and value.is_integer()
        yield place, json.dumps(int(value) if whole else value)
