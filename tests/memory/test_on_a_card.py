"""The prepared run for a card: what a rehearsal writes is never taken for measured, and a failed step fails the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import on_a_card
from benchmarks.on_a_card import Place, Step
from pytest_finetune.memory.hardware.detect import parse_budget


def place(folder: Path, *, rehearse: bool) -> Place:
    return Place(folder, parse_budget("8GiB"), rehearse)


def written(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_rehearsal_writes_nothing_where_results_go(tmp_path: Path) -> None:
    names = ("cards.csv", "steps.jsonl", "speed.txt")
    rehearsed = {place(tmp_path, rehearse=True).file(name) for name in names}
    measured = {place(tmp_path, rehearse=False).file(name) for name in names}
    assert rehearsed.isdisjoint(measured)
    assert all(file.name.startswith("rehearsed-") for file in rehearsed)


def test_a_rehearsal_tries_every_kind_of_step(tmp_path: Path) -> None:
    kinds = [
        {step.name.partition(" ")[0] for step in on_a_card.steps(place(tmp_path, rehearse=rehearse))}
        for rehearse in (True, False)
    ]
    assert kinds[0] == kinds[1]


def test_a_failed_step_is_counted_and_the_next_one_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: int) -> Mapping[str, Any]:
        return on_a_card._held(False, {"exit": 1})

    some = [Step("first", 10, fails), Step("second", 10, lambda limit: {"limit": limit})]
    monkeypatch.setattr(on_a_card, "steps", lambda _: some)
    here = place(tmp_path, rehearse=False)
    assert on_a_card.run(here, 1, ()) == 1
    first, second = written(here.file("steps.jsonl"))
    assert '"exit": 1' in first["failed"]
    assert second["limit"] == 10
    assert on_a_card.run(here, 0.01, ["second"]) == 0
    assert "remained" in written(here.file("steps.jsonl"))[-1]["left out"]
