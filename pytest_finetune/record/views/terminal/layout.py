"""Text in a given number of terminal cells."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final, NamedTuple

COLOURS: Final = {"good": "green", "warn": "yellow", "bad": "red", "none": "bold"}


class Line(NamedTuple):
    """One line of the summary; `markup` names one mark of pytest's TerminalWriter, or is empty."""

    text: str
    markup: str = ""

    @property
    def marks(self) -> dict[str, bool]:
        """The keyword arguments for `TerminalReporter.write_line`."""
        return {self.markup: True} if self.markup else {}


def cells(text: str) -> int:
    """Count the terminal cells of text: wide characters take two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(bool(unicodedata.combining(char)) for char in text)


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Cut or fill text to `width` cells; `right` puts the filling before it."""
    fitted = fit(text, width)
    filling = " " * (width - cells(fitted))
    return filling + fitted if right else fitted + filling


def fit(text: str, width: int) -> str:
    """Cut text to `width` cells, with three dots where something was cut."""
    if cells(text) <= width:
        return text
    kept = ""
    for char in text:
        if cells(kept + char) > width - 3:
            break
        kept += char
    return kept.rstrip() + "..."


def wrapped(text: str, width: int, most: int) -> list[str]:
    """Break text between words into at most `most` lines; the further ones are indented by two."""
    indent = " " * (len(text) - len(text.lstrip()))
    lines = [indent]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1].strip() else f"{lines[-1]}{word}"
        if cells(joined) > width and lines[-1].strip():
            lines.append(f"{indent}  {word}")
        else:
            lines[-1] = joined
    return [fit(line, width) for line in _cut(lines, most)]


def _cut(lines: list[str], most: int) -> Iterable[str]:
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1]} ..."]
