"""Docstrings are whole sentences: none is cut in the middle by a tool that shortens first lines."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest_finetune

ROOT: Final = Path(pytest_finetune.__file__).parent
DOCUMENTED: Final = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# A paragraph that begins in this way goes on from a sentence that was ended before it was whole.
CONTINUES: Final = re.compile(
    r"(And|But|Or|Nor|So that|Than|Which|Whose|Not at all|Of a storage|In the order|Smallest)\b"
)
CUT: Final = re.compile(r"\([^)]*$|\.  +\S|^[a-z][^`(_.:]*$")


def docstrings() -> Iterator[tuple[str, str]]:
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
                yield f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'the module')}", text


def cuts(text: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring that are no whole sentences; code and examples are none."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text)):
        line = " ".join(paragraph.split("\n"))
        is_code = paragraph.startswith((" ", ">>>", "..", "=", "|")) or "::" in text
        if not is_code and ((number and CONTINUES.match(line)) or CUT.search(line)):
            yield line


def test_no_docstring_is_cut_in_the_middle() -> None:
    assert [(place, cut) for place, text in docstrings() for cut in cuts(text)] == []
