"""The table of versions tells what was tried, and what was not can never be taken for what works."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROW = {
    "name": "held",
    "tried": "2026-11-26",
    "python": "3.11.7",
    "versions": {
        "torch": "2.13.0",
        "transformers": "5.24.0",
        "peft": "0.21.2",
        "trl": "1.16.0",
        "bitsandbytes": "0.50.2",
        "pytest": "9.2.0",
    },
    "shown": {"without a model": "works", "plans": "nf4: a | b", "session": "works"},
}


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / "versions.py"))


def cells(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_an_environment_without_a_row_is_told_as_not_tried(script: dict[str, Any]) -> None:
    failed = {"name": "lowest", "not_tried": "pip could not make this environment"}
    wanted = ["held", "lowest", "held twice", "newest, Python 9.99"]
    head, _, held, *others = cells(script["table"]([ROW, failed], wanted))
    assert dict(zip(head, held, strict=True))["a plan of each method"] == "nf4: a / b"
    assert [row[:2] for row in others] == [
        ["lowest", "not tried: pip could not make this environment"],
        ["held twice", "not tried: it did not run on the machine that wrote this"],
        ["newest, Python 9.99", "not tried: there is no python9.99 on the machine that wrote this"],
    ]
    assert all(len(row) == len(head) and not any(row[2:]) for row in others)


def test_the_last_of_several_rows_of_an_environment_counts(script: dict[str, Any]) -> None:
    first = {**ROW, "shown": {"without a model": "1 failed"}}
    (*_, held) = cells(script["table"]([first, ROW], ["held"]))
    assert "1 failed" not in held


def test_what_was_tried_once_beside_the_matrix_comes_last(script: dict[str, Any]) -> None:
    once = {**ROW, "name": "torch of last year", "shown": {"plans": "works"}}
    head, _, first, last = cells(script["table"]([once, ROW], ["held"]))
    assert [first[0], last[0]] == ["held", "torch of last year"]
    shown = dict(zip(head, last, strict=True))
    assert [shown[what] for what in script["SHOWN"].values()] == ["-", "works", "-"]


def test_the_page_is_what_the_rows_give(script: dict[str, Any]) -> None:
    rows = (ROOT / "benchmarks/results/versions.jsonl").read_text(encoding="utf-8").splitlines()
    page = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    told = [row for row in cells(page)[2:] if not row[1].startswith("not tried")]
    assert page.startswith("# Versions")
    for row in told:
        assert row in cells(script["table"](list(map(json.loads, rows)), []))


def test_the_example_of_today_can_be_shortened_for_a_trial(script: dict[str, Any], tmp_path: Path) -> None:
    for name in ("finetune.yaml", "data/contract.yaml", "data/train.jsonl", "eval/check.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / "example_project" / name).read_bytes())
    script["_shorten"](tmp_path)
    contract = (tmp_path / "data/contract.yaml").read_text(encoding="utf-8")
    assert not any(word in contract for word in ("min_per_label", "max_share", "min_train", "handwritten"))
    assert "labels: {field: priority}\n" in contract
    assert "max_steps: 4\n" in (tmp_path / "finetune.yaml").read_text(encoding="utf-8")
    asked = (tmp_path / "eval/check.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(asked) == script["ASKED"]
