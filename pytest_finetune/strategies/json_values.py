"""A hypothesis strategy for the values of a JSON Schema (2020-12), for the words that contracts use.

Built on public strategies; what a word cannot steer (``not``, ``if``, what ``allOf`` adds) is filtered by
jsonschema, and so is everything in the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pytest_finetune.errors import FinetuneError

_ANNOTATIONS: Final = frozenset(
    [
        "$schema",
        "$id",
        "$comment",
        "$defs",
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "format",
    ]
)
_FILTERED: Final = frozenset(("not", "if", "then", "else"))
_STEERED: Final = frozenset(
    [
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "properties",
        "required",
        "additionalProperties",
        "minProperties",
        "maxProperties",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minLength",
        "maxLength",
        "pattern",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
    ]
)
_LARGE: Final = 10**6

_TYPES_OF_WORD: Final = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


class UnsupportedSchema(FinetuneError, ValueError):
    """The schema uses a word that no strategy is known for."""


def values(schema: Mapping[str, Any] | bool) -> SearchStrategy[Any]:
    """Return JSON values that keep the schema; UnsupportedSchema names a word that is not known here."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    plain = schema if isinstance(schema, bool) else dict(schema)
    is_valid = Draft202012Validator(plain, registry=Registry[Any]()).is_valid
    return _Builder(schema).build(schema).filter(is_valid)


class _Builder:
    """Build strategies for parts of one schema, whose definitions references look up."""

    def __init__(self, root: Mapping[str, Any] | bool) -> None:
        self._root = root
        self._by_type: dict[str, Callable[[Mapping[str, Any]], SearchStrategy[Any]]] = {
            "null": lambda part: st.none(),
            "boolean": lambda part: st.booleans(),
            "integer": _integers,
            "number": _numbers,
            "string": _strings,
            "array": self._arrays,
            "object": self._objects,
        }

    def build(self, part: Mapping[str, Any] | bool) -> SearchStrategy[Any]:
        if part is False:
            return st.nothing()
        if part is True or not part.keys() - _ANNOTATIONS:
            return _anything()
        unknown = sorted(part.keys() - _ANNOTATIONS - _FILTERED - _STEERED)
        if unknown:
            raise UnsupportedSchema(f"no strategy is known for {unknown[0]!r} in a schema")
        if "$ref" in part:
            return st.deferred(lambda: self.build(self._referred(part["$ref"])))
        if "const" in part:
            return st.just(part["const"])
        if "enum" in part:
            return st.sampled_from(part["enum"])
        for word in ("anyOf", "oneOf"):
            if word in part:
                rest = {key: value for key, value in part.items() if key != word}
                return st.one_of(*(self.build(_merged(rest, branch)) for branch in part[word]))
        if "allOf" in part:
            merged: Mapping[str, Any] | bool = {key: value for key, value in part.items() if key != "allOf"}
            for branch in part["allOf"]:
                merged = _merged(merged, branch)
            return self.build(merged)
        return st.one_of(*(self._by_type[name](part) for name in _types(part)))

    def _referred(self, reference: str) -> Mapping[str, Any] | bool:
        if reference == "#":
            return self._root
        if not reference.startswith("#/"):
            raise UnsupportedSchema(f"no strategy is known for the reference {reference!r}")
        part: Any = self._root
        for key in reference[2:].split("/"):
            part = part[key.replace("~1", "/").replace("~0", "~")]
        return part  # type: ignore[no-any-return]

    def _arrays(self, part: Mapping[str, Any]) -> SearchStrategy[Any]:
        first = [self.build(item) for item in part.get("prefixItems", ())]
        low, high = part.get("minItems", 0), part.get("maxItems", part.get("minItems", 0) + 4)
        unique = {"unique_by": _as_text} if part.get("uniqueItems") else {}
        item = self.build(part.get("items", True))
        rest = st.lists(item, min_size=max(0, low - len(first)), max_size=max(0, high - len(first)), **unique)  # type: ignore[arg-type]
        return st.tuples(st.tuples(*first), rest).map(lambda drawn: [*drawn[0], *drawn[1]][:high])

    def _objects(self, part: Mapping[str, Any]) -> SearchStrategy[Any]:
        described, required = part.get("properties", {}), part.get("required", ())
        others = part.get("additionalProperties", True)
        known = {key: self.build(rule) for key, rule in described.items()}
        needed = {key: known[key] if key in known else self.build(others) for key in required}
        optional = {key: rule for key, rule in known.items() if key not in needed and not rule.is_empty}
        # Keys stand in the schema's order, as a contract wants them in one order.
        order = [*described, *(key for key in required if key not in described)]
        made = st.fixed_dictionaries(needed, optional=optional).map(
            lambda drawn: {key: drawn[key] for key in order if key in drawn}
        )
        missing = part.get("minProperties", 0) - len(needed) - len(optional)
        if missing > 0 and others is not False:
            names = st.text("abcdefgh", min_size=3, max_size=5).filter(lambda name: name not in described)
            more = st.dictionaries(names, self.build(others), min_size=missing, max_size=missing)
            return st.tuples(made, more).map(lambda drawn: {**drawn[0], **drawn[1]})
        return made


def _types(part: Mapping[str, Any]) -> list[str]:
    named = part.get("type")
    if named is not None:
        return [named] if isinstance(named, str) else list(named)
    meant = [name for name, words in _TYPES_OF_WORD.items() if any(word in part for word in words)]
    return meant or ["null", "boolean", "integer", "string"]


def _merged(left: Mapping[str, Any] | bool, right: Mapping[str, Any] | bool) -> Mapping[str, Any] | bool:
    """Return one schema that steers towards both; what is lost is filtered later."""
    if isinstance(left, bool) or isinstance(right, bool):
        return right if left is True or left == {} else (left if right is True else False)
    both: dict[str, Any] = {**left, **right}
    if "properties" in left and "properties" in right:
        both["properties"] = {**left["properties"], **right["properties"]}
    if "required" in left and "required" in right:
        both["required"] = list(dict.fromkeys([*left["required"], *right["required"]]))
    return both


def _integers(part: Mapping[str, Any]) -> SearchStrategy[int]:
    low = max(part.get("minimum", -_LARGE), part.get("exclusiveMinimum", -_LARGE - 1) + 1)
    high = min(part.get("maximum", _LARGE), part.get("exclusiveMaximum", _LARGE + 1) - 1)
    step = part.get("multipleOf", 1)
    if isinstance(step, int) and step > 1:
        return st.integers(-(-int(low) // step), int(high) // step).map(lambda number: number * step)
    return st.integers(-int(-low // 1), int(high // 1))


def _numbers(part: Mapping[str, Any]) -> SearchStrategy[Any]:
    if "multipleOf" in part:
        step = part["multipleOf"]
        low, high = part.get("minimum", -100 * step), part.get("maximum", 100 * step)
        return st.integers(int(low / step), int(high / step)).map(lambda number: number * step)
    low = part.get("minimum", part.get("exclusiveMinimum", -_LARGE))
    high = part.get("maximum", part.get("exclusiveMaximum", _LARGE))
    return st.floats(low, high, allow_nan=False, allow_infinity=False)


def _strings(part: Mapping[str, Any]) -> SearchStrategy[str]:
    low, high = part.get("minLength", 0), part.get("maxLength", part.get("minLength", 0) + 40)
    if "pattern" in part:
        return st.from_regex(part["pattern"]).filter(
            lambda text: low <= len(text) <= part.get("maxLength", len(text))
        )
    letters = st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Co", "Cn"))
    return st.text(letters, min_size=low, max_size=high)


def _anything() -> SearchStrategy[Any]:
    leaves = st.one_of(st.none(), st.booleans(), st.integers(-_LARGE, _LARGE), _strings({}))
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.text("abcdef", min_size=1, max_size=4), inner, max_size=3),
        ),
        max_leaves=5,
    )


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
