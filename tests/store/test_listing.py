"""Lists by manifests alone: what is new is opened, and what was opened is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_finetune.store import Entry, Store, listing, manifest

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Open


def run(store: Store, name: str, experiment: str) -> None:
    store.commit("records", name, lambda folder: write(folder / "run.json"), {"experiment": experiment})


def write(file: Path) -> None:
    file.write_text("{}")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the manifests that lists have opened."""
    keys = []

    def parse(data: bytes, kind: str, key: str, path: Path) -> Entry:
        keys.append(key)
        return manifest.parse(data, kind, key, path)

    monkeypatch.setattr(listing, "parse", parse)
    return keys


def test_runs_are_found_by_what_they_are_about_and_each_is_opened_once(
    store: Store, opened: list[str]
) -> None:
    for number in range(4):
        run(store, f"run{number}", "even" if number % 2 == 0 else "odd")
    assert sorted(store.runs("experiment", "even")) == ["run0", "run2"]
    assert sorted(opened) == ["run0", "run1", "run2", "run3"]
    run(store, "run4", "even")
    store.close()
    (store.root / "records" / "run0").rename(store.root / "taken away")
    (known,) = (store.root / "listed").iterdir()
    known.write_bytes(known.read_bytes().replace(b'"odd"', b'"add"', 1))  # a damaged line is made again
    opened.clear()
    again = Store(store.root)
    assert sorted(again.runs("experiment", "even")) == ["run2", "run4"]
    assert again.runs("experiment", "add") == []
    assert len(opened) == 2
    assert sorted(again.runs("experiment", "odd")) == ["run1", "run3"]


def test_runs_of_other_machines_are_asked_for_once(machine: Open, opened: list[str]) -> None:
    here, there = machine("here"), machine("there")
    for number in range(3):
        run(there, f"run{number}", "one")
    run(here, "mine", "one")
    for _ in range(2):
        assert sorted(here.runs("experiment", "one")) == ["mine", "run0", "run1", "run2"]
    assert len(opened) == 4
    assert not (here.root / "records" / "run0").exists()  # it is listed, not brought
    assert {entry.key for entry in here.entries("records")} == {"mine", "run0", "run1", "run2"}
