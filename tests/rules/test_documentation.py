"""docs/rules.md says what the code does."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pytest_finetune
from pytest_finetune import rules
from pytest_finetune.judging.rule import ARGUMENTS, mistakes

PAGE = (Path(pytest_finetune.__file__).parents[1] / "docs" / "rules.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_ready_rule_stands_on_the_page_and_no_other() -> None:
    assert set(re.findall(r"^\| `(\w+)\(.*\)` \|", PAGE, re.MULTILINE)) == set(rules.__all__)


def test_the_arguments_of_the_marker_stand_on_the_page_as_the_table_has_them() -> None:
    rows = (
        f"| `{name}={argument.example}` | {argument.meaning} | {', '.join(argument.fits)} |\n"
        for name, argument in ARGUMENTS.items()
    )
    assert "|---|---|---|\n" + "".join(rows) in PAGE


def test_the_rules_of_the_page_can_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_judge", ModuleType("my_judge"))
    found = 0
    for text in CODE:
        names: dict[str, object] = {}
        exec(compile("import json, pytest\n" + text, "docs/rules.md", "exec"), names)
        for name, rule in names.items():
            for mark in getattr(rule, "pytestmark", ()) if name.startswith("test_") else ():
                assert list(mistakes(mark.kwargs)) == [], name
                found += 1
    assert found >= 7
