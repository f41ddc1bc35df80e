"""The documentation says what the code does."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import pytest_finetune
from pytest_finetune.data.catalogue import RULES
from pytest_finetune.data.contract import Contract
from pytest_finetune.data.shapes import content_of

DOCUMENT = (Path(pytest_finetune.__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)


def test_the_table_of_rules_is_the_catalogue() -> None:
    rows = re.findall(r"^\| `(\w+/[\w-]+)` \| (\w+) \| (.*) \| (.*) \|$", DOCUMENT, flags=re.MULTILINE)
    assert rows == [(name, rule.severity, rule.why, rule.fix) for name, rule in RULES.items()]


def test_every_rule_says_how_severe_it_is_why_it_matters_and_what_to_do() -> None:
    for name, rule in RULES.items():
        assert re.fullmatch(r"[a-z]+/[a-z0-9-]+", name)
        assert rule.severity in {"error", "warning", "note"}
        assert rule.why.endswith(".")
        assert rule.fix.endswith(".")


def test_the_contracts_and_rows_of_the_documentation_can_be_read(tmp_path: Path) -> None:
    for text in blocks("yaml"):
        (tmp_path / "contract.yaml").write_text(text, encoding="utf-8")
        Contract.load(tmp_path, "contract.yaml", today=date(2026, 1, 1))
    for line in "".join(blocks("json")).splitlines():
        assert content_of(json.loads(line)).output
