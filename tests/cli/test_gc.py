from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_finetune.store import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Ran


def answers(folder: Path) -> None:
    (folder / "answers.jsonl").write_text("x" * 1000)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Three sets of answers, 1000 bytes each: last used 100, 40 and 0 days ago."""
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / ".finetune")
    for name, days in (("oldest", 100), ("old", 40), ("new", 0)):
        store.commit("outputs", name, answers)
        used = time.time() - days * 86400
        os.utime(store.root / "outputs" / name, (used, used))
    store.close()
    return store


def left(store: Store) -> set[str]:
    return {entry.key for entry in store.entries("outputs")}


def test_a_dry_run_says_what_would_go_and_removes_nothing(run: Callable[..., Ran], store: Store) -> None:
    ran = run("gc", "--max-age", "30d", "--dry-run")
    assert ran.code == 0
    assert "would remove 2 things" in ran.out
    assert "outputs/oldest" in ran.out
    assert "not used for 100.0 days" in ran.out
    assert left(store) == {"oldest", "old", "new"}


def test_what_is_too_old_goes(run: Callable[..., Ran], store: Store) -> None:
    tree = run("gc", "--max-age", "30d", "--json").tree
    assert {item["place"] for item in tree["removed"]} == {"outputs/oldest", "outputs/old"}
    assert tree["freed_bytes"] == sum(item["bytes"] for item in tree["removed"]) > 2000
    assert left(store) == {"new"}


def test_the_least_recently_used_goes_first_when_it_is_too_much(
    run: Callable[..., Ran], store: Store
) -> None:
    sizes = run("gc", "--json").tree["left_bytes"]
    run("gc", "--max-size", f"{sizes - 1}B")
    assert left(store) == {"old", "new"}


def test_without_a_limit_nothing_that_is_sound_goes(run: Callable[..., Ran], store: Store) -> None:
    assert "removed nothing" in run("gc").out
    assert left(store) == {"oldest", "old", "new"}


def test_what_is_promoted_stays_and_the_reason_is_printed(run: Callable[..., Ran], store: Store) -> None:
    store.notes.pin("outputs", "oldest", "promoted")
    ran = run("gc", "--max-age", "30d")
    assert left(store) == {"oldest", "new"}
    assert any(line.split() == ["outputs/oldest", "promoted"] for line in ran.out.splitlines())


def test_a_folder_that_is_no_store_is_refused(run: Callable[..., Ran], tmp_path: Path) -> None:
    plan = tmp_path / "plans" / "house" / "roof.txt"
    plan.parent.mkdir(parents=True)
    plan.write_text("precious")
    os.utime(plan.parent, (0, 0))
    ran = run("gc", "--store", tmp_path, "--max-age", "1d")
    assert ran.code == 2
    assert "is not a store" in ran.err
    assert plan.read_text() == "precious"


def test_no_store_at_all_is_nothing_to_remove(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("gc", "--max-size", "1GiB")
    assert ran.code == 0
    assert "nothing to remove" in ran.out
    assert not (tmp_path / ".finetune").exists()


def test_of_a_store_on_a_url_the_cache_is_collected_and_nothing_else(
    run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/shared"
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / ".finetune-cache"
    ran = run("gc", "--store", url, "--max-size", "1B")
    assert ran.out.startswith(f"no cache of {url} at {cache}")
    shared = open_store(url, tmp_path)
    shared.commit("outputs", "new", answers)
    shared.close()
    ran = run("gc", "--store", url, "--max-size", "1B")
    assert "removed 1 thing, " in ran.out
    assert ran.out.splitlines()[-1].endswith(
        f"stay in {shared.root}, the cache of {url}, where nothing is removed"
    )
    assert not (shared.root / "outputs" / "new").exists()
    assert run("gc", "--store", url, "--json").tree["cache_of"] == url
    brought = open_store(url, tmp_path).read("outputs", "new")
    assert brought is not None
    assert (brought.path / "answers.jsonl").read_text() == "x" * 1000
