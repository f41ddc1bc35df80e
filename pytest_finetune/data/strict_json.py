"""Parse JSON and tell what a lenient parser swallows: repeated keys, NaN, 1e999, lone surrogates, bombs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from pytest_finetune.yamlfile import JsonTree

MAX_DEPTH: Final = 64

_SPACE: Final = " \t\n\r"
LONG_NUMBER: Final = "a number with thousands of digits"


def too_large(text: str) -> str:
    """Return what is wrong with a number that only infinity could stand for."""
    return f"the number {text[:20]} is too large for a float"


class Fault(NamedTuple):
    """One defect of a JSON text: a short kind (the end of a rule id) and what was read."""

    kind: str
    read: str


class Parsed(NamedTuple):
    """A parsed value and every fault of its text; `value` is None when there is a syntax fault."""

    value: object
    faults: tuple[Fault, ...]


class StrictParser:
    """Parse JSON texts one after another; an instance is not to be shared between threads."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_float=self._float, parse_constant=self._constant
        )
        # `decode` spends more on matching white space around short texts than on the texts.
        self._scan = decoder.scan_once  # type: ignore[attr-defined]

    def parse(self, text: str) -> Parsed:
        """Parse exactly one value; never raise on content."""
        faults = self._faults = []
        if text.count("{") + text.count("[") > MAX_DEPTH and depth(text) > MAX_DEPTH:
            return Parsed(None, (Fault("deep-nesting", f"nested deeper than {MAX_DEPTH} levels"),))
        try:
            value, end = self._scan(text, len(text) - len(text.lstrip(_SPACE)))
        except StopIteration as error:
            faults.append(Fault("syntax", f"no value at character {error.value + 1}"))
            return Parsed(None, tuple(faults))
        except json.JSONDecodeError as error:
            faults.append(Fault("syntax", f"{error.msg} at character {error.pos + 1}"))
            return Parsed(None, tuple(faults))
        except ValueError:  # int() refuses more than 4,300 digits
            faults.append(Fault("non-finite", LONG_NUMBER))
            return Parsed(None, tuple(faults))
        if end < len(text) and text[end:].strip(_SPACE):
            faults.append(Fault("syntax", f"more text after the value, at character {end + 1}"))
            return Parsed(None, tuple(faults))
        if "\\u" in text and any(not _encodes(part) for part in strings_in(value)):
            faults.append(Fault("lone-surrogate", "half of a surrogate pair"))
        return Parsed(value, tuple(dict.fromkeys(faults)) if faults else ())

    def _object(self, pairs: list[tuple[str, object]]) -> JsonTree:
        value = dict(pairs)
        if len(value) < len(pairs):
            seen: set[str] = set()
            repeated = {key for key, _ in pairs if key in seen or seen.add(key)}  # type: ignore[func-returns-value]
            names = ", ".join(repr(key) for key in sorted(repeated))
            self._faults.append(Fault("duplicate-key", f"the key {names} stands more than once"))
        return value

    def _float(self, text: str) -> float:
        number = float(text)
        if math.isinf(number):
            self._faults.append(Fault("non-finite", too_large(text)))
        return number

    def _constant(self, name: str) -> None:
        self._faults.append(Fault("non-finite", f"{name} is not JSON"))


def depth(text: str) -> int:
    """Return how deep brackets nest in a JSON text, strings left out."""
    level = deepest = 0
    quoted = escaped = False
    for character in text:
        if quoted:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                quoted = False
        elif character == '"':
            quoted = True
        elif character in "{[":
            level += 1
            deepest = max(deepest, level)
        elif character in "}]":
            level -= 1
    return deepest


def strings_in(value: object) -> Iterator[str]:
    """Yield every string of a JSON value, keys included."""
    todo = [value]
    while todo:
        part = todo.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            todo.extend(part)
            todo.extend(part.values())
        elif isinstance(part, list):
            todo.extend(part)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
