"""Foreign text as Markdown that renders as itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from pytest_finetune.wording import one_line

# Underscores inside a word mark nothing; `snake_case` stays readable in the raw file.
_MARKS: Final = re.compile(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))")
_FIRST: Final = re.compile(r"^(\s*)(?:([#+=-])|(\d+)([.)]))")
_LINKS: Final = (("://", "&#58;//"), ("@", "&#64;"), ("www.", "www&#46;"))


def plain(text: object, limit: int | None = None) -> str:
    r"""Escape text for one line of Markdown: no marks, no HTML, no mentions, no links, no line breaks.

    >>> print(plain("<b>*now*</b> @team"))
    &lt;b&gt;\*now\*&lt;/b&gt; &#64;team
    """
    escaped = one_line(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = _MARKS.sub(r"\\\1", escaped)
    for active, shown in _LINKS:
        escaped = escaped.replace(active, shown)
    return _FIRST.sub(_shown_first, escaped)


def _shown_first(match: re.Match[str]) -> str:
    """Keep the first characters of a line from opening a heading, a list or a rule."""
    space, mark, digits, point = match.groups()
    return f"{space}\\{mark}" if mark else f"{space}{digits}\\{point}"


def code(text: object, limit: int | None = None) -> str:
    """Put text into a code span that its own backticks cannot end."""
    line = one_line(text, limit)
    if not line:
        return "(empty)"
    runs = [len(run) for run in re.findall(r"`+", line)]
    fence = "`" * (max(runs, default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out a table whose cells are Markdown already."""
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(' --- ' for _ in head)}|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]
