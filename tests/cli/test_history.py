from __future__ import annotations

import csv
import io
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.store import Store, open_store
from pytest_finetune.wording import size

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Ran

ABOUT = {"task": "priority", "experiment": "finetune", "steps": 64, "final_loss": 0.1234, "seconds": 75.25}


def adapter(folder: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + struct.pack("<f", 1)
    )
    (folder / "adapter_config.json").write_text("{}")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / ".finetune")


def test_every_adapter_is_listed_with_what_its_training_said(run: Callable[..., Ran], store: Store) -> None:
    store.commit("adapters", "a" * 64, adapter, ABOUT)
    store.commit("adapters", "b" * 64, adapter, {**ABOUT, "task": "tone", "final_loss": None})
    store.notes.pin("adapters", "b" * 64, "promoted")
    found = {entry["key"]: entry for entry in run("history", "--json").tree["adapters"]}
    assert found.keys() == {"a" * 64, "b" * 64}
    assert {name: found["a" * 64][name] for name in ABOUT} == ABOUT
    assert (found["b" * 64]["kept"], found["b" * 64]["final_loss"]) == ("promoted", None)
    out = run("history").out
    (first,) = [line.split() for line in out.splitlines() if "a" * 12 in line]
    assert first[1:6] == ["finetune", "priority", "64", "0.1234", "75"]
    assert "2 adapters, " in out
    assert "verdict" not in out


def test_the_table_as_csv_is_read_back(run: Callable[..., Ran], store: Store) -> None:
    store.commit("adapters", "a" * 64, adapter, {**ABOUT, "task": 'a, "b"\nc'})
    (read,) = csv.DictReader(io.StringIO(run("history", "--csv").out))
    assert (read["task"], read["steps"], read["key"]) == ('a, "b" c', "64", "a" * 64)


def test_what_a_writer_did_not_say_or_said_wrongly_is_shown_as_it_is(
    run: Callable[..., Ran], store: Store
) -> None:
    store.commit("adapters", "a" * 64, adapter, {"task": "\x1b[31mred", "steps": "many", "final_loss": "low"})
    out = run("history").out
    assert "\x1b" not in out
    assert r"\x1b[31mred" in out
    assert "many" in out


def test_a_project_that_trained_nothing_has_an_empty_history_and_gets_no_store(
    run: Callable[..., Ran], store: Store
) -> None:
    ran = run("history")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("no adapter in ")
    assert not store.root.exists()
    assert run("history", "--json").tree["adapters"] == []
    assert run("history", "--csv").out.strip() == ""


def test_a_store_that_was_named_and_is_not_there_is_a_mistake(run: Callable[..., Ran], store: Store) -> None:
    ran = run("history", "--store", "typo")
    assert (ran.code, ran.out) == (2, "")
    assert "--store 'typo': there is no such folder" in ran.err


def test_a_damaged_entry_is_a_warning_beside_the_table(run: Callable[..., Ran], store: Store) -> None:
    store.commit("adapters", "a" * 64, adapter, ABOUT)
    (store.root / "adapters" / "broken").mkdir()
    ran = run("history")
    assert ran.code == 0
    assert "no sound manifest" in ran.err
    assert "1 adapter, " in ran.out


def test_what_lies_behind_a_url_is_listed_before_anything_is_here(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/shared"
    open_store(url, tmp_path / "team").commit("adapters", "a" * 64, adapter, ABOUT)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    tree = run("history", "--store", url, "--json").tree
    assert (tree["store"], [found["key"] for found in tree["adapters"]]) == (url, ["a" * 64])
    out = run("history", "--store", url).out
    assert out.splitlines()[-1].endswith(f"1 adapter, {size_of(tree)}, in {url}")
    assert list((tmp_path / "here").iterdir()) == []


def size_of(tree: Any) -> str:
    return size(tree["adapters"][0]["bytes"])


def test_what_is_kept_of_a_url_that_cannot_be_reached_is_listed_with_a_warning(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/shared"
    monkeypatch.chdir(tmp_path)
    open_store(url, tmp_path).commit("adapters", "a" * 64, adapter, ABOUT)

    def unreachable(self: object, *args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.ls", unreachable)
    ran = run("history", "--store", url)
    assert ran.code == 0
    assert "a" * 12 in ran.out
    assert "only what is on this machine is listed: " in ran.err
    assert "no route to host" in ran.err
