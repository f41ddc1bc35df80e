from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.fingerprint import Key
from pytest_finetune.fingerprint.sealed import sealed
from pytest_finetune.store import Entry, Store, StoreError, manifest

Adapter = Callable[..., Callable[[Path], None]]
KEY = Key.of({"lora": {"r": 8}, "environment": {"torch": "2"}})


def everything_below(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def test_making_a_store_and_asking_it_write_nothing(store: Store) -> None:
    assert store.read("adapters", KEY) is None
    assert store.entries("outputs") == []
    assert store.last("triage") is None
    store.close()
    assert not store.root.exists()


def test_what_was_committed_comes_back(store: Store, adapter: Adapter) -> None:
    about = {"seconds": 2.0, "log": [{"loss": 0.5}], "name": "Grüße"}
    committed = store.commit("adapters", KEY, adapter(0.5, files={"tokenizer/vocab.json": "{}"}), about)
    read = Store(store.root).read("adapters", KEY)
    assert read == committed
    assert read is not None
    assert (read.about, read.fields, read.key) == (about, KEY.fields, KEY.value)
    assert set(read.files) == {"adapter_model.safetensors", "adapter_config.json", "tokenizer/vocab.json"}
    assert read.size_bytes == sum((read.path / name).stat().st_size for name in read.files)
    assert store.warnings == []


def test_nothing_but_the_entry_is_left(store: Store, adapter: Adapter) -> None:
    store.commit("adapters", KEY, adapter(0.5))
    names = ["MANIFEST.json", "adapter_config.json", "adapter_model.safetensors"]
    folder = f"adapters/{KEY}"
    assert everything_below(store.root) == [
        ".gitignore",
        "adapters",
        folder,
        *(f"{folder}/{n}" for n in names),
    ]
    assert (store.root / ".gitignore").read_text() == "*\n"


def test_the_first_writer_wins(store: Store, adapter: Adapter) -> None:
    first = store.commit("adapters", KEY, adapter(0.5), {"writer": 1})
    second = store.commit("adapters", KEY, adapter(0.7), {"writer": 2})
    assert second == first
    assert second.about == {"writer": 1}
    assert not list(store.root.glob("tmp-*"))


@pytest.mark.parametrize("at_once", [True, False])
def test_a_replacement_takes_the_place_of_the_entry_when_it_is_whole(
    store: Store, adapter: Adapter, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    if not at_once:
        monkeypatch.setattr("pytest_finetune.store.disk._exchange_at_once", lambda one, other: False)
    first = store.commit("adapters", KEY, adapter(0.5), {"n": 1}, replacing=True)
    seen_while_writing: list[object] = []

    def write(folder: Path) -> None:
        adapter(0.7)(folder)
        seen_while_writing.append(Store(store.root).read("adapters", KEY))

    second = store.commit("adapters", KEY, write, {"n": 2}, replacing=True)
    assert seen_while_writing == [first]
    assert second.about == {"n": 2}
    assert second.files != first.files
    assert Store(store.root).read("adapters", KEY) == second
    assert [path.name for path in store.root.iterdir() if path.name.startswith("tmp-")] == []


def test_a_replacement_that_fails_leaves_the_entry(store: Store, adapter: Adapter) -> None:
    first = store.commit("adapters", KEY, adapter(0.5))
    with pytest.raises(StoreError, match="not finite"):
        store.commit("adapters", KEY, adapter(math.nan), replacing=True)
    assert store.read("adapters", KEY) == first


def test_the_writer_may_fill_in_what_is_said_about_the_entry(store: Store, adapter: Adapter) -> None:
    about: dict[str, object] = {}

    def write(folder: Path) -> None:
        adapter(0.5)(folder)
        about["seconds"] = 1.5

    assert store.commit("adapters", KEY, write, about).about == {"seconds": 1.5}


def test_a_writer_that_fails_leaves_nothing(store: Store) -> None:
    def write(folder: Path) -> None:
        (folder / "half.json").write_text("{")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.commit("outputs", KEY, write)
    assert everything_below(store.root) == [".gitignore"]
    assert store.read("outputs", KEY) is None


def test_the_other_kinds_hold_any_files(store: Store) -> None:
    entry = store.commit("outputs", "by-hand", lambda folder: writes(folder, "answers.txt"))
    assert (entry.path / "answers.txt").read_text() == "x"
    assert entry.fields == {}


@pytest.mark.parametrize("key", ["", "..", "a/b", ".hidden", "x" * 200, "a\0b"])
def test_a_key_cannot_lead_out_of_the_store(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="cannot be a key"):
        store.read("adapters", key)


def test_an_unknown_kind_is_an_error(store: Store) -> None:
    for ask in (store.entries, lambda kind: store.read(kind, KEY)):
        with pytest.raises(ValueError, match="there are adapters, outputs, plans, bases, models"):
            ask("adaptors")


def write_link(folder: Path) -> None:
    (folder / "answers.txt").symlink_to("/etc/hostname")


def write_manifest(folder: Path) -> None:
    (folder / "MANIFEST.json").write_text("{}")
    (folder / "a.txt").write_text("x")


def write_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda folder: None, "nothing was written"),
        (lambda folder: (folder / "deep").mkdir(), "deep/ is an empty folder"),
        (write_link, r"answers\.txt is a link"),
        (write_pipe, "pipe is a special file"),
        (write_manifest, r"MANIFEST\.json is the store's own file"),
    ],
)
def test_what_cannot_be_an_entry_is_not_stored(
    store: Store, write: Callable[[Path], None], words: str
) -> None:
    with pytest.raises(StoreError, match=words):
        store.commit("outputs", KEY, write)
    assert store.read("outputs", KEY) is None


def change(write: Callable[[Path], None], then: Callable[[Path], object]) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        write(folder)
        then(folder)

    return both


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no safetensors file"),
        (
            lambda folder: (folder / "adapter_model.bin").write_bytes(b"\x80\x04."),
            r"adapter_model\.bin .*never pickles",
        ),
        (
            lambda folder: (folder / "training_args.bin").write_bytes(b""),
            r"training_args\.bin .*never pickles",
        ),
        (lambda folder: (folder / "model.py").write_text(""), r"model\.py does not belong"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "not readable JSON"),
        (
            lambda folder: (folder / "adapter_config.json").write_text(
                '{"auto_mapping": {"parent_library": "evil"}}'
            ),
            r"adapter_config\.json makes a library import code \(auto_mapping\)",
        ),
        (
            lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"PK\x03\x04"),
            "no safetensors file",
        ),
    ],
)
def test_an_adapter_that_is_not_safe_to_load_is_not_stored(
    store: Store, adapter: Adapter, then: Callable[[Path], object], words: str
) -> None:
    with pytest.raises(StoreError, match=f"was not stored: .*{words}"):
        store.commit("adapters", KEY, change(adapter(0.5), then))
    assert store.read("adapters", KEY) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_adapter_with_a_number_that_is_not_finite_is_not_stored(
    store: Store, adapter: Adapter, value: float
) -> None:
    with pytest.raises(StoreError, match=r"numbers that are not finite, in layer\.lora_B\.weight"):
        store.commit("adapters", KEY, adapter(0.5, value))


def forge(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the manifest with a right digest, as an attacker would."""
    tree = json.loads((folder / "MANIFEST.json").read_bytes())
    edit(tree)
    del tree["digest"]
    (folder / "MANIFEST.json").write_bytes(sealed(tree, 1))


def weights_of_nan(folder: Path) -> None:
    """Committed consistently by somebody who does not check: right checksums, useless numbers."""
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")
    record = manifest.describe(folder)["adapter_model.safetensors"]
    forge(folder, lambda tree: tree["files"]["adapter_model.safetensors"].update(sha256=record.sha256))


def replace_by_link(folder: Path) -> None:
    outside = folder.parents[2] / "outside"
    folder.rename(outside)
    folder.symlink_to(outside)


def link_inside(folder: Path) -> None:
    outside = folder.parents[2] / "config.json"
    (folder / "adapter_config.json").rename(outside)
    (folder / "adapter_config.json").symlink_to(outside)


def cut(name: str, size_bytes: int) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / name, size_bytes)


def rewrite(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def respace(folder: Path) -> None:
    tree = json.loads((folder / "MANIFEST.json").read_bytes())
    (folder / "MANIFEST.json").write_text(json.dumps(tree))


def put_a_pipe(folder: Path) -> None:
    (folder / "MANIFEST.json").unlink()
    os.mkfifo(folder / "MANIFEST.json")


def put_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file cut short": (cut("adapter_model.safetensors", 40), "has 40 bytes"),
    "a file made longer": (rewrite("adapter_config.json", " " * 99), "99 bytes, .* were committed"),
    "a file changed": (
        rewrite("adapter_config.json", '{"r": 2, "target_modules": ["q_proj"]}'),
        "does not match its checksum",
    ),
    "a file gone": (remove("adapter_config.json"), r"adapter_config\.json is missing"),
    "a file too many": (rewrite("evil.bin", ""), r"evil\.bin is a foreign file"),
    "a folder too many": (lambda f: (f / "deep").mkdir(), "deep/ is an empty folder"),
    "the manifest gone": (remove("MANIFEST.json"), r"MANIFEST\.json is missing"),
    "the manifest cut": (cut("MANIFEST.json", 100), r"MANIFEST\.json is damaged"),
    "the manifest respaced": (respace, "damaged"),
    "the manifest a list": (rewrite("MANIFEST.json", "[]"), "damaged"),
    "the manifest of another key": (
        lambda f: forge(f, lambda t: t.update(key="other")),
        "belongs to adapters/other",
    ),
    "the manifest of another time": (lambda f: forge(f, lambda t: t.update(schema=9)), "schema 9"),
    "a manifest without files": (lambda f: forge(f, lambda t: t.pop("files")), "damaged"),
    "a manifest that leads out": (
        lambda f: forge(f, lambda t: t["files"].update({"../../x": {"sha256": "", "size": 0}})),
        r"\.\./\.\./x is missing",
    ),
    "numbers that are not finite": (weights_of_nan, "not finite"),
    "an empty folder": (empty, r"MANIFEST\.json is missing"),
    "a file in its place": (put_a_file, "in place of the entry"),
    "a link out of the store": (replace_by_link, "a link or a file stands in place"),
    "a link inside": (link_inside, r"adapter_config\.json is a link"),
    "a pipe in place of the manifest": (put_a_pipe, r"MANIFEST\.json is a special file"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_entry_is_set_aside_and_can_be_made_again(
    store: Store, adapter: Adapter, damage: str
) -> None:
    spoil, words = DAMAGES[damage]
    entry = store.commit("adapters", KEY, adapter(0.5))
    spoil(entry.path)
    reader = Store(store.root)
    assert reader.read("adapters", KEY) is None
    (warning,) = reader.warnings
    assert re.search(rf"adapters/{KEY} counts as a miss: .*{words}.*set aside at", warning)
    assert not os.path.lexists(entry.path)
    (kept,) = (path for path in (store.root / "set-aside").iterdir() if path.suffix != ".txt")
    assert re.search(words, kept.with_name(f"{kept.name}.txt").read_text())
    assert reader.commit("adapters", KEY, adapter(0.5)).files == entry.files


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_commit_takes_the_place_of_a_damaged_entry(store: Store, adapter: Adapter, damage: str) -> None:
    entry = store.commit("adapters", KEY, adapter(0.5))
    DAMAGES[damage][0](entry.path)
    again = store.commit("adapters", KEY, adapter(0.5), {"again": True})
    assert again.files == entry.files
    assert Store(store.root).read("adapters", KEY) == again


def test_a_kind_that_is_a_link_out_of_the_store_is_not_followed(
    store: Store, adapter: Adapter, tmp_path: Path
) -> None:
    entry = store.commit("adapters", KEY, adapter(0.5))
    outside = tmp_path / "outside"
    entry.path.parent.rename(outside)
    (store.root / "adapters").symlink_to(outside)
    assert store.read("adapters", KEY) is None
    assert "adapters counts as a miss: a link in place of a folder of the store" in store.warnings[0]
    assert (outside / str(KEY) / "MANIFEST.json").exists()
    (store.root / "outputs").symlink_to(outside)
    made = store.commit("outputs", KEY, lambda folder: writes(folder, "answers.txt"))
    assert made.path.resolve().is_relative_to(store.root)
    assert not (store.root / "outputs").is_symlink()


def test_a_damaged_entry_is_not_carried_out_through_a_link(
    store: Store, adapter: Adapter, tmp_path: Path
) -> None:
    entry = store.commit("adapters", KEY, adapter(0.5))
    (tmp_path / "outside").mkdir()
    (store.root / "set-aside").symlink_to(tmp_path / "outside")
    (entry.path / "more.txt").write_text("")
    assert store.read("adapters", KEY) is None
    assert list((tmp_path / "outside").iterdir()) == []
    assert not (store.root / "set-aside").is_symlink()


def test_a_good_entry_that_came_meanwhile_is_not_set_aside(
    store: Store, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our finding the damage and our moving it, another process repaired the entry."""
    entry = store.commit("adapters", KEY, adapter(0.5))
    (entry.path / "adapter_config.json").write_text("{}")
    real = manifest.verify

    def slow_verify(folder: Path, kind: str, name: str) -> Entry:
        monkeypatch.setattr("pytest_finetune.store.folders.verify", real)
        try:
            return real(folder, kind, name)
        finally:
            Store(store.root).commit("adapters", KEY, adapter(0.5))

    monkeypatch.setattr("pytest_finetune.store.folders.verify", slow_verify)
    found = store.read("adapters", KEY)
    assert found is not None
    assert found.files == entry.files
    assert store.warnings == []


def test_foreign_things_in_the_store_are_passed_over(store: Store, adapter: Adapter) -> None:
    entry = store.commit("adapters", KEY, adapter(0.5))
    (store.root / "adapters" / "notes.txt").write_text("mine")
    (store.root / "adapters" / "junk").mkdir()
    (store.root / "whatever").mkdir()
    assert store.entries("adapters") == [entry]
    assert [name for name in ("notes.txt", "junk") if any(name in line for line in store.warnings)] == [
        "notes.txt",
        "junk",
    ]
    assert store.read("adapters", KEY) == entry


def test_entries_that_differ_in_the_environment_alone_are_alike(store: Store, adapter: Adapter) -> None:
    def key(torch: str, rank: int) -> Key:
        return Key.of({"lora": {"r": rank}, "environment": {"torch": torch}, "dtype": "float32"})

    here = store.commit("adapters", key("2.13", 8), adapter(0.5))
    store.commit("adapters", key("2.13", 4), adapter(0.5))
    store.commit("adapters", "by-hand", adapter(0.5))
    assert store.alike("adapters", key("3.0", 8)) == [here]


def test_checkpoints_of_a_key_stay_until_its_adapter_is_committed(store: Store, adapter: Adapter) -> None:
    other = Key.of({"lora": {"r": 4}})
    (store.checkpoints(other) / "state").write_text("x")
    (store.checkpoints(KEY) / "checkpoint-5").mkdir()
    assert [path.name for path in store.checkpoints(KEY).iterdir()] == ["checkpoint-5"]
    store.commit("outputs", KEY, lambda folder: writes(folder, "answers.txt"))
    assert store.checkpoints(KEY) != store.checkpoints(other)
    assert [path.name for path in store.checkpoints(KEY).iterdir()] == ["checkpoint-5"]
    store.commit("adapters", KEY, adapter(0.5))
    assert [path.name for path in (store.root / "checkpoints").iterdir()] == [str(other)]


def test_checkpoints_behind_a_link_are_not_resumed_from(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside" / "checkpoint-5").mkdir(parents=True)
    store.checkpoints(KEY).rmdir()
    (store.root / "checkpoints" / str(KEY)).symlink_to(tmp_path / "outside")
    assert list(store.checkpoints(KEY).iterdir()) == []
    assert "a link in place of checkpoints" in store.warnings[0]


def writes(folder: Path, name: str) -> None:
    (folder / name).write_text("x")


def test_an_entry_that_cannot_be_read_back_is_an_error_and_not_a_miss(
    store: Store, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(folder: Path, kind: str, key: str) -> Entry:
        raise manifest.DefectError("a bit has turned")

    monkeypatch.setattr("pytest_finetune.store.folders.verify", damaged)
    said = "the entry could not be read back after it was written; see the warnings"
    with pytest.raises(StoreError, match=rf"cannot store adapters/.*: {said}"):
        store.commit("adapters", KEY, adapter(0.5))
    assert "a bit has turned" in store.warnings[0]
