"""What pytest-html leaves open on the page that carries our record: markup in names, controls without a name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pytest_finetune.record.views.page.html import text
from pytest_finetune.record.wording import visible

_TEST_ID: Final = '<td class="col-testId">{}</td>'
_BOX: Final = re.compile(r'<input (checked="true" class="filter" [^>]*?data-test-result="([\w-]+)")')


def escape_test_id(nodeid: str, cells: list[str]) -> None:
    """Escape the cell that pytest-html filled with a raw test id; a cell of another plugin is left alone."""
    for place, cell in enumerate(cells):
        head, _, rest = _TEST_ID.partition("{}")
        if isinstance(cell, str) and cell.startswith(head + nodeid) and cell.endswith(rest):
            cells[place] = _TEST_ID.format(text(cell[len(head) : -len(rest)]))


def escaped(environment: Mapping[str, Any]) -> dict[str, str]:
    """Escape an environment table: its values become text, whatever they hold."""
    return {visible(key): _escaped(value) for key, value in environment.items()}


def _escaped(value: object) -> str:
    """Put a value on one line of text; pytest-html's own list of a mapping is broken markup."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {inner}" for key, inner in value.items())
    elif isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return str(text(value))


def spell_out(logs: list[str]) -> None:
    """Spell out what a browser would obey in captured text; line breaks and colours stay."""
    logs[:] = [visible(log, keep="\n\t\x1b") for log in logs]


def named(page: str) -> str:
    """Give pytest-html's page what a screen reader asks for: its language, its main part, names for its boxes."""
    page = page.replace("<html>", '<html lang="en">', 1)
    page = page.replace('<div class="summary">', '<div class="summary" role="main">', 1)
    return _BOX.sub(r'<input aria-label="show \2" \1', page)
