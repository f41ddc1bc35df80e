"""A project folder with a contract and two files, made from values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.data.contract import Contract
from pytest_finetune.data.findings import Findings
from pytest_finetune.data.rows import Rows, read_rows

INSTRUCTION = "Classify the ticket."


@dataclass(frozen=True)
class Project:
    """Write files, read them back, check them."""

    root: Path

    def write(self, name: str, content: bytes | str) -> str:
        (self.root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    def rows(self, name: str, rows: Iterable[Mapping[str, Any]], split: str) -> Rows:
        self.write(name, "".join(json.dumps(row) + "\n" for row in rows))
        return read_rows(self.root, name, split)

    def train(self, rows: Iterable[Mapping[str, Any]]) -> Rows:
        return self.rows("train.jsonl", rows, "train")

    def held_out(self, rows: Iterable[Mapping[str, Any]]) -> Rows:
        return self.rows("eval.jsonl", rows, "eval")

    def contract(self, text: str, today: date = date(2026, 6, 1)) -> Contract:
        self.write("contract.yaml", text)
        return Contract.load(self.root, "contract.yaml", today=today)

    def findings(
        self,
        text: str,
        train: Iterable[Mapping[str, Any]],
        held_out: Iterable[Mapping[str, Any]] | None = None,
    ) -> Findings:
        """Check rows against a contract; without held-out rows a harmless one is made."""
        held_out = held_out if held_out is not None else [row("which zebra answered", "low", key="expected")]
        return self.contract(text).findings(self.train(train), self.held_out(held_out))


def row(text: str, answer: object = "low", *, key: str = "output", **more: object) -> dict[str, Any]:
    return {"instruction": INSTRUCTION, "input": text, key: answer, **more}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    return row
