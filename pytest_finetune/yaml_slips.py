"""What people write in a YAML file by habit or by a slip, and what they meant by it: the hint that ends a message."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import yaml

_NO_SPACE: Final = re.compile(r"^\s*(?:- +)?([A-Za-z_][\w-]*):([^\s/].*)$")
_NO_BREAK: Final = re.compile(r"^[ \xa0]*\xa0|[:-]\xa0")
_COLON_IN_TEXT: Final = re.compile(r"^(\s*(?:- +)?[\w-]+): +([^\"'{\[|>#&*].*:(?: .*|))$")
_BRACE_THEN_TEXT: Final = re.compile(r":\s+(?:\{[^}]*\}|\[[^\]]*\])\s*[^\s#,}\]]")
_COMMA: Final = re.compile(r"[-+]?\d+,\d+")
_PERCENT: Final = re.compile(r"(\d+(?:[.,]\d+)?) ?%")
_THOUSANDS: Final = re.compile(r"\d{1,3}[.,]\d{3}")
_QUOTE: Final = "put it in quotes"


def unreadable(error: yaml.MarkedYAMLError, text: str) -> tuple[int | None, str]:
    """Return the line (from 1) on which a text stops being YAML, and why in words that say what to write."""
    mark = error.problem_mark or error.context_mark
    said = error.problem or error.context or ""
    if mark is None:
        return None, said
    lines = text.splitlines()
    at = min(mark.line, len(lines) - 1)
    opened = error.context_mark.line + 1 if error.context_mark else at + 1
    if "'\\t'" in said:
        return mark.line + 1, "a tab stands where YAML takes spaces alone: write spaces"
    for number in (at - 1, at):  # a key that was not seen as one is told of on the line after it
        line = lines[number] if number >= 0 else ""
        if _NO_BREAK.search(line):
            return number + 1, "a no-break space (U+00A0) stands here: write a plain space"
        if (slip := _NO_SPACE.match(line)) and ("mapping values" in said or "expected ':'" in said):
            return number + 1, f"a space is missing after the colon: write `{slip[1]}: {slip[2].strip()}`"
    return mark.line + 1, said + _hint(said, lines[at] if lines else "", opened, mark.line + 1)


def _hint(said: str, line: str, opened: int, here: int) -> str:
    if "mapping values" in said:
        text = _COLON_IN_TEXT.match(line)
        told = f'a text with a colon in it needs quotes: `{text[1].strip()}: "{text[2]}"`' if text else ""
        return f": {told or 'indent it like the keys beside it'}"
    if "cannot start any token" in said or "undefined alias" in said:
        return ": put the text in quotes"
    if "unknown escape" in said:
        return ": in double quotes a backslash is an escape; write / in a path, or take single quotes"
    if _BRACE_THEN_TEXT.search(line):
        return ": a text that begins with a bracket needs quotes"
    if "expected ',' or" in said and opened < here:
        return f": the bracket that opens on line {opened} is not closed"
    if "end of stream" in said and opened < here:
        return f": the quote or bracket that opens on line {opened} is not closed"
    if "expected <block end>" in said:
        return ": indent it like the keys beside it"
    return ""


def of_key(name: str) -> str | None:
    """Say what is missing in a key that holds its own value: ``r:8``; None where the key is one.

    >>> of_key("r:8")
    'a space is missing after the colon: write r: 8'
    """
    key, colon, value = name.partition(":")
    return f"a space is missing after the colon: write {key}: {value}" if colon and key and value else None


def of_value(found: object, wanted: str | Sequence[str]) -> str:
    """Return what was probably meant by a value of another type than those `wanted`; empty where nobody knows.

    >>> of_value("1,5", "number"), of_value("5%", "number"), of_value(7, "string"), of_value("fast", "number")
    ('; write 1.5, with a point', '; write 0.05', '; put it in quotes', '')
    """
    kinds = {wanted} if isinstance(wanted, str) else set(wanted)
    told = None
    if kinds & {"number", "integer"}:
        told = _number(found, whole="number" not in kinds)
    elif "string" in kinds:
        told = _text(found)
    elif "boolean" in kinds and isinstance(found, str) and found.lower() in ("true", "false"):
        told = f"write {found.lower()} without quotes"
    elif "array" in kinds:
        told = _list(found)
    return f"; {told}" if told else ""


def _number(found: object, *, whole: bool) -> str | None:
    if isinstance(found, float) and found.is_integer():
        return f"write {found:.0f}"
    written = str(found).strip()
    if whole and not isinstance(found, bool) and _THOUSANDS.fullmatch(written):
        return f"write {re.sub('[.,]', '', written)}"
    if not isinstance(found, str):
        return None
    if _COMMA.fullmatch(written):
        return f"write {written.replace(',', '.')}, with a point"
    if share := _PERCENT.fullmatch(written):
        return f"write {float(share[1].replace(',', '.')) / 100:g}"
    try:
        float(written)
    except ValueError:
        return None
    digits = str(int(written)) if written.isdecimal() else written
    return f"write {digits}" if digits != written else f"write {written} without quotes"


def _text(found: object) -> str | None:
    if isinstance(found, bool):
        return f"YAML reads yes, no, on and off as true and false: {_QUOTE}"
    if isinstance(found, (int, float)):
        return _QUOTE
    braces = isinstance(found, Mapping) and len(found) == 1 and None in found.values()
    return "a text that begins with { needs quotes" if braces else None


def _list(found: object) -> str | None:
    first = next(iter(found), "") if isinstance(found, Mapping) else found
    if isinstance(first, str) and first.startswith("-") and first[1:2] not in ("", "-"):
        return "a space is missing after the dash: write `- ` and then the entry"
    if isinstance(found, Mapping):
        return "write each entry after a dash and a space: `- key: value`"
    if isinstance(found, str):
        return f"write [{', '.join(part.strip() for part in found.split(','))}]"
    return None
