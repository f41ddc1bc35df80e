from __future__ import annotations

from pathlib import Path

import pytest

from pytest_finetune.store import Store, StoreError


def test_the_last_run_is_remembered_by_name(store: Store) -> None:
    store.remember("triage", {"key": {"lora.r": 8}, "rules": ["test_rules.py::test_json"]})
    store.remember("other", {"key": {}})
    store.remember("triage", {"key": {"lora.r": 4}})
    assert Store(store.root).last("triage") == {"key": {"lora.r": 4}}
    assert store.last("other") == {"key": {}}
    assert store.last("never") is None


@pytest.mark.parametrize(
    "name", ["configs/a.yaml", "../../evil", "Grüße", "", "x" * 300, "a\0b", ".gitignore"]
)
def test_any_name_is_one_file_inside_the_store(store: Store, name: str) -> None:
    store.remember(name, {"name": name})
    assert store.last(name) == {"name": name}
    assert len(list((store.root / "last").iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_note_is_unknown_with_a_warning(store: Store, content: bytes) -> None:
    store.remember("triage", {"key": 1})
    (file,) = (store.root / "last").iterdir()
    file.write_bytes(content)
    assert store.last("triage") is None
    assert f"{file} cannot be read" in store.warnings[0]
    assert "the last run is unknown" in store.warnings[0]


@pytest.mark.parametrize("content", [b"[]", b'{"value": 3}', b"{}"])
def test_a_note_of_another_shape_is_unknown(store: Store, content: bytes) -> None:
    store.remember("triage", {"key": 1})
    (file,) = (store.root / "last").iterdir()
    file.write_bytes(content)
    assert store.last("triage") is None


def test_a_failed_write_keeps_the_note_before(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.remember("triage", {"run": 1})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match=r"cannot remember the last run at .*the disk is full"):
        store.remember("triage", {"run": 2})
    assert store.last("triage") == {"run": 1}
    assert len(list((store.root / "last").iterdir())) == 1


def test_a_pin_holds_until_it_is_taken_out(store: Store) -> None:
    assert store.notes.pinned("adapters", "key") is None
    store.notes.pin("adapters", "key", "promoted to artifacts/adapter")
    assert Store(store.root).notes.pinned("adapters", "key") == "promoted to artifacts/adapter"
    assert store.notes.pinned("outputs", "key") is None
    store.notes.unpin("adapters", "key")
    store.notes.unpin("adapters", "key")
    assert store.notes.pinned("adapters", "key") is None


def test_a_damaged_pin_still_holds(store: Store, tmp_path: Path) -> None:
    store.notes.pin("adapters", "key", "why")
    (store.root / "pins" / "adapters-key.json").write_text("{")
    assert store.notes.pinned("adapters", "key") == "pinned"
