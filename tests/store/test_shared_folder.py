"""A folder that is only read, with a cache of one's own in front of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_finetune.store import Look, Store, StoreError, open_store

from .conftest import Write

KEY = "a" * 64
LOOK = Look("adapter", "answers", "rules", frozenset({"row1", "row2"}))


def test_it_reads_everything_and_writes_nothing(tmp_path: Path, adapter: Callable[..., Write]) -> None:
    team = Store(tmp_path / "team")
    team.commit("adapters", KEY, adapter(1.0))
    team.looks.register(LOOK, {})
    team.remember("classify", {"key": KEY})
    team.close()
    before = snapshot(team.root)
    runner = open_store("team", tmp_path, readonly=True)
    entry = runner.read("adapters", KEY)
    assert entry is not None
    assert entry.path.is_relative_to(tmp_path / ".finetune-cache")
    assert runner.last("classify") == {"key": KEY}
    assert runner.looks.register(Look("another", "answers", "rules", LOOK.rows), {}) == 2
    runner.commit("adapters", "b" * 64, adapter(2.0))
    runner.notes.pin("adapters", KEY, "mine")
    assert len(runner.entries("adapters")) == 2
    assert snapshot(team.root) == before
    assert runner.warnings == []


def test_a_damaged_entry_is_a_miss_and_stays_where_it_is(
    tmp_path: Path, adapter: Callable[..., Write]
) -> None:
    team = Store(tmp_path / "team")
    entry = team.commit("adapters", KEY, adapter(1.0))
    weights = entry.path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    before = snapshot(team.root)
    runner = open_store("team", tmp_path, readonly=True)
    assert runner.read("adapters", KEY) is None
    assert "does not match its checksum" in runner.warnings[0]
    assert snapshot(team.root) == before


def test_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no such folder to read"):
        open_store("nowhere", tmp_path, readonly=True)


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
