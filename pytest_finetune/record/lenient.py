"""Read JSON into classes whose fields say what is expected; what is missing or of another kind is empty."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import (
    Any,
    Final,
    Generic,
    Self,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

Json = Mapping[str, object]
Pair = tuple[object, object]
"""Two values of one setting: there and here, or before and now."""
Span = tuple[float, float]
"""The ends of an interval."""


@dataclass_transform(frozen_default=True, eq_default=False)
@dataclass(frozen=True, eq=False)
class Facts:
    """A part of a record, false where the record does not have it; every subclass is a frozen dataclass.

    A field is named as its key in the record, and its type says what is read: text, a finite whole number, a number,
    further parts. Two names are special: `raw` is the whole part as it stands, `name` the key under which it stands.
    """

    recorded: bool

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, eq=False)(cls)

    def __bool__(self) -> bool:
        return self.recorded

    @classmethod
    def of(cls, value: object, **known: object) -> Self:
        """Read the part; `known` are fields whose value does not stand in it. What was read already is returned."""
        if isinstance(value, cls):
            return value
        kind: Any = cls
        given = value if isinstance(value, Mapping) else {}
        found = {
            field: read(given.get(field)) for field, read in _readers(kind).items() if field not in known
        }
        if "raw" in found:
            found["raw"] = given
        return kind(recorded=bool(given), **found, **known)  # type: ignore[no-any-return]


F = TypeVar("F", bound=Facts)


class Named(dict[str, F], Generic[F]):
    """Parts of a record by name; one that is not there is empty."""

    def __init__(self, kind: type[F], found: Mapping[str, F]) -> None:
        super().__init__(found)
        self.kind = kind

    def __missing__(self, name: str) -> F:
        return _under(self.kind, name, None)  # type: ignore[no-any-return]


def whole(value: object) -> int | None:
    """Return a finite number as an integer, else None."""
    number = _number(value)
    return int(number) if number is not None and math.isfinite(number) else None


def _number(value: object) -> int | float | None:
    """NaN and infinities are numbers here; booleans are not."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _span(value: object) -> Span | None:
    given = value if isinstance(value, list | tuple) else ()
    ends = [float(end) for end in given if isinstance(end, int | float) and math.isfinite(end)]
    return (ends[0], ends[1]) if len(ends) == 2 else None


def _pair(value: object) -> Pair | None:
    return (value[0], value[1]) if isinstance(value, list | tuple) and len(value) == 2 else None


_READERS: Final[Mapping[object, Callable[[Any], object]]] = {
    str: lambda value: "" if value is None else str(value),
    bool: bool,
    bool | None: lambda value: value if isinstance(value, bool) else None,
    int: whole,
    int | None: whole,
    float: _number,
    float | None: _number,
    Span | None: _span,
    Pair: _pair,
    object: lambda value: value,
}


@cache
def _readers(kind: Any) -> dict[str, Callable[[object], object]]:
    return {name: _reader(hint) for name, hint in get_type_hints(kind).items() if name != "recorded"}


def _reader(hint: Any) -> Callable[[object], object]:
    """Return what reads a value of this type."""
    if hint in _READERS:
        return _READERS[hint]
    origin, inside = get_origin(hint), get_args(hint)
    if origin is None:
        return hint.of  # type: ignore[no-any-return]
    if origin is Named:
        return partial(_named, inside[0])
    return partial(_mapping if origin is Mapping else _sequence, inside[-1 if origin is Mapping else 0])


def _under(kind: Any, name: str, value: object) -> Any:
    return kind.of(value, name=name) if "name" in _readers(kind) else kind.of(value)


def _named(kind: type[F], value: object) -> Named[F]:
    given = value if isinstance(value, Mapping) else {}
    parts = {str(name): one for name, one in given.items() if isinstance(one, Mapping)}
    return Named(kind, {name: _under(kind, name, one) for name, one in parts.items()})


def _mapping(kind: Any, value: object) -> Mapping[str, object]:
    given = value if isinstance(value, Mapping) else {}
    if kind is object:
        return given
    read = _reader(kind)
    return {str(name): found for name, one in given.items() if (found := read(one)) is not None}


def _sequence(kind: Any, value: object) -> tuple[object, ...]:
    given = value if isinstance(value, list | tuple) else ()
    if isinstance(kind, type) and issubclass(kind, Facts):
        given = [one for one in given if isinstance(one, Mapping)]
    return tuple(map(_reader(kind), given))
