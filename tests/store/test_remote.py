"""A store on a URL, on three file systems: memory, a folder, and a real S3 server that the tests start."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.store import Look, Store, collect, open_store
from pytest_finetune.store.shared.bucket import Bucket

from .conftest import Open, Write

KEY = "a" * 64
LOOK = Look("adapter", "answers", "rules", frozenset({"row1", "row2"}))


def objects(store: Store) -> list[str]:
    """Name every object of the store behind the URL."""
    assert store.upstream is not None
    files, root = store.upstream._bucket._files, store.upstream._bucket._root  # type: ignore[attr-defined]
    files.invalidate_cache()
    return sorted(str(path) for path in files.find(root))


def change(store: Store, path: str, data: bytes | None) -> None:
    assert store.upstream is not None
    files = store.upstream._bucket._files  # type: ignore[attr-defined]
    files.rm_file(path) if data is None else files.pipe_file(path, data)


def content(store: Store, path: str) -> bytes:
    assert store.upstream is not None
    return bytes(store.upstream._bucket._files.cat_file(path))  # type: ignore[attr-defined]


def test_what_one_machine_commits_another_one_reads(machine: Open, adapter: Callable[..., Write]) -> None:
    here, there = machine("here"), machine("there")
    assert (here.read("adapters", KEY), here.warnings) == (None, [])
    committed = here.commit("adapters", KEY, adapter(1.0, 2.0, files={"docs/card.md": "hello"}), {"steps": 3})
    assert [entry.key for entry in there.entries("adapters")] == [KEY]
    brought = there.read("adapters", KEY)
    assert brought is not None
    assert (brought.digest, brought.about) == (committed.digest, {"steps": 3})
    assert brought.path.is_relative_to(there.root)
    assert (brought.path / "docs" / "card.md").read_text() == "hello"
    assert (here.warnings, there.warnings) == ([], [])


def test_what_is_in_the_cache_is_read_without_a_request(
    tmp_path: Path, adapter: Callable[..., Write], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/shared"
    open_store(url, tmp_path / "here").commit("adapters", KEY, adapter(1.0, 2.0))
    asked: list[str] = []
    really = Bucket._read

    def noted(bucket: Bucket, action: str, *given: Any) -> Any:
        asked.append(action)
        return really(bucket, action, *given)

    monkeypatch.setattr(Bucket, "_read", noted)
    for machine, requests in (("there", 3), ("there", 0), ("here", 0)):  # the manifest and two files
        asked.clear()
        assert open_store(url, tmp_path / machine).read("adapters", KEY) is not None
        assert len(asked) == requests


def write_json(folder: Path) -> None:
    (folder / "x.json").write_text("{}")


@pytest.mark.parametrize("kind", ["outputs", "plans", "records"])
def test_answers_plans_and_records_are_shared(machine: Open, kind: str) -> None:
    machine("here").commit(kind, KEY, write_json)
    entry = machine("there").read(kind, KEY)
    assert entry is not None
    assert (entry.path / "x.json").read_text() == "{}"


def test_a_base_stays_on_its_machine(machine: Open) -> None:
    here = machine("here")
    here.commit("bases", KEY, write_json)
    assert machine("there").read("bases", KEY) is None
    assert objects(here) == []


def test_of_two_writers_the_first_wins_and_both_have_its_adapter(
    machine: Open, adapter: Callable[..., Write]
) -> None:
    one, two = machine("one"), machine("two")
    assert two.read("adapters", KEY) is None
    first = one.commit("adapters", KEY, adapter(1.0))
    second = two.commit("adapters", KEY, adapter(2.0))
    assert second.digest == first.digest
    assert two.warnings == []
    third = machine("three").read("adapters", KEY)
    assert third is not None
    assert third.digest == first.digest


def test_two_writers_at_the_same_time_leave_one_whole_adapter(
    machine: Open, adapter: Callable[..., Write]
) -> None:
    both = threading.Barrier(2)
    stores = [machine(f"writer{n}") for n in range(2)]
    failed: list[BaseException] = []

    def write(n: int) -> None:
        try:
            both.wait()
            stores[n].commit("adapters", KEY, adapter(float(n + 1)))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    reader = machine("reader")
    entry = reader.read("adapters", KEY)
    assert entry is not None
    assert reader.warnings == []
    assert entry.digest in {store.entries("adapters")[0].digest for store in stores}


def test_a_retraining_takes_the_place_of_what_was_shared(
    machine: Open, adapter: Callable[..., Write]
) -> None:
    here = machine("here")
    here.commit("adapters", KEY, adapter(1.0))
    again = here.commit("adapters", KEY, adapter(2.0), replacing=True)
    found = machine("there").read("adapters", KEY)
    assert found is not None
    assert found.digest == again.digest


def test_a_flipped_bit_anywhere_is_a_miss_and_the_next_training_repairs_it(
    machine: Open, adapter: Callable[..., Write]
) -> None:
    here, chance = machine("here"), random.Random(5)
    here.commit("adapters", KEY, adapter(1.0, 2.0))
    places = objects(here)
    assert len(places) == 3
    for turn in range(12):
        place = places[turn % 3]
        whole = content(here, place)
        flipped = bytearray(whole)
        bit = chance.randrange(8 * len(whole))
        flipped[bit // 8] ^= 1 << bit % 8
        change(here, place, bytes(flipped))
        reader = machine(f"reader{turn}")
        assert reader.read("adapters", KEY) is None, (place, bit)
        (warning,) = reader.warnings
        assert "counts as a miss: " in warning
        assert list((reader.root / "adapters").glob("*")) == []
        change(here, place, whole)
    change(here, places[-1], b"damaged")
    mender = machine("mender")
    assert mender.read("adapters", KEY) is None
    mended = mender.commit("adapters", KEY, adapter(3.0))
    after = machine("after").read("adapters", KEY)
    assert after is not None
    assert after.digest == mended.digest


def test_an_upload_cut_off_before_its_manifest_is_no_entry(
    machine: Open, adapter: Callable[..., Write]
) -> None:
    here = machine("here")
    here.commit("adapters", KEY, adapter(1.0))
    (manifest,) = [path for path in objects(here) if path.endswith("MANIFEST.json")]
    change(here, manifest, None)
    reader = machine("reader")
    assert (reader.read("adapters", KEY), reader.entries("adapters"), reader.warnings) == (None, [], [])


def test_a_file_of_an_entry_that_is_gone_is_named(machine: Open, adapter: Callable[..., Write]) -> None:
    here = machine("here")
    here.commit("adapters", KEY, adapter(1.0))
    (weights,) = [path for path in objects(here) if path.endswith(".safetensors")]
    change(here, weights, None)
    reader = machine("reader")
    assert reader.read("adapters", KEY) is None
    (warning,) = reader.warnings
    assert warning.endswith("counts as a miss: adapter_model.safetensors is missing")


def test_looks_are_counted_over_all_machines(machine: Open) -> None:
    one, two = machine("one"), machine("two")
    assert one.looks.register(LOOK, {"json": "t"}) == 1
    other = Look("another", "answers", "rules", LOOK.rows)
    assert two.looks.earlier(other) == 2
    assert two.looks.register(other, {"json": "u"}) == 2
    assert one.looks.earlier(Look("a third", "answers", "rules", LOOK.rows)) == 3
    assert one.looks.register(LOOK, {"json": "t"}) == 1
    assert one.looks.changed_after_look({"json": "u"}, LOOK.rows) == ("json",)


def test_notes_and_pins_are_shared(machine: Open, adapter: Callable[..., Write]) -> None:
    one, two = machine("one"), machine("two")
    one.commit("adapters", KEY, adapter(1.0))
    one.remember("classify", {"key": KEY})
    one.notes.pin("adapters", KEY, "promoted to production")
    assert two.last("classify") == {"key": KEY}
    assert two.read("adapters", KEY) is not None
    two.close()
    kept = collect(machine("two"), max_bytes=0)
    assert [why for _, why in kept.kept] == ["promoted to production"]
    one.notes.unpin("adapters", KEY)
    assert machine("three").notes.pinned("adapters", KEY) is None


def test_a_collection_clears_the_cache_and_nothing_that_is_shared(
    machine: Open, adapter: Callable[..., Write]
) -> None:
    here = machine("here")
    here.commit("adapters", KEY, adapter(1.0))
    here.close()
    before = objects(here)
    assert len(collect(machine("here"), max_bytes=0).removed) == 1
    assert objects(here) == before
    assert machine("here").read("adapters", KEY) is not None


def test_readonly_reads_everything_and_writes_nothing(machine: Open, adapter: Callable[..., Write]) -> None:
    team, runner = machine("team"), machine("runner", readonly=True)
    team.commit("adapters", KEY, adapter(1.0))
    team.looks.register(LOOK, {})
    before = [(path, content(team, path)) for path in objects(team)]
    assert runner.read("adapters", KEY) is not None
    other = Look("another", "answers", "rules", LOOK.rows)
    assert runner.looks.register(other, {}) == 2
    runner.commit("adapters", "b" * 64, adapter(2.0))
    runner.remember("classify", {"key": KEY})
    runner.notes.pin("adapters", KEY, "mine")
    runner.notes.unpin("adapters", KEY)
    assert [(path, content(team, path)) for path in objects(team)] == before
    assert runner.read("adapters", "b" * 64) is not None
    assert runner.warnings == []
