from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_finetune.store import Store, StoreError, collect
from pytest_finetune.store.disk import host_name
from pytest_finetune.store.jobs import JOBS

DAY_S = 86400.0
NOW_S = time.time()
ROOT = Path(__file__).parents[2]


def commit(
    store: Store, key: str, size_bytes: int = 1000, idle_days: float = 0.0, kind: str = "outputs"
) -> Path:
    """An entry that no process uses any more."""
    entry = store.commit(kind, key, lambda folder: write(folder / "answers.jsonl", b"x" * size_bytes))
    store.close()
    used(entry.path, idle_days)
    return entry.path


def write(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def used(path: Path, days_ago: float) -> None:
    os.utime(path, (NOW_S - days_ago * DAY_S,) * 2)


def keys(store: Store, kind: str = "outputs") -> set[str]:
    return {entry.key for entry in store.entries(kind)}


def test_without_a_limit_no_entry_goes(store: Store) -> None:
    commit(store, "old", idle_days=1000)
    collected = collect(store)
    assert (collected.removed, keys(store)) == ((), {"old"})
    assert collected.left_bytes > 1000


def test_a_store_that_was_never_written_has_nothing_to_collect(store: Store) -> None:
    assert collect(store, max_age_s=0, max_bytes=0).removed == ()
    assert not store.root.exists()


def test_what_was_not_used_for_long_goes(store: Store) -> None:
    commit(store, "old", idle_days=31)
    commit(store, "young", idle_days=29)
    collected = collect(store, max_age_s=30 * DAY_S, now_s=NOW_S)
    assert keys(store) == {"young"}
    (removal,) = collected.removed
    assert (removal.place, removal.why) == ("outputs/old", "not used for 31.0 days")
    assert collected.freed_bytes == removal.size_bytes > 1000
    assert not list(store.root.glob("tmp-*"))


def test_reading_is_using(store: Store) -> None:
    commit(store, "old", idle_days=31)
    store.read("outputs", "old")
    store.close()
    assert collect(store, max_age_s=30 * DAY_S, now_s=NOW_S).removed == ()


def test_the_least_recently_used_go_until_the_rest_fits(store: Store) -> None:
    for key, days in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        commit(store, key, size_bytes=10_000, idle_days=days)
    collected = collect(store, max_bytes=21_500, now_s=NOW_S)
    assert [removal.place for removal in collected.removed] == ["outputs/a"]
    assert collected.left_bytes <= 21_500
    collect(store, max_bytes=0, now_s=NOW_S)
    assert keys(store) == set()


def test_a_dry_run_says_the_same_and_touches_nothing(store: Store) -> None:
    commit(store, "old", idle_days=31)
    (store.root / "tmp-elsewhere-1-0").mkdir()
    used(store.root / "tmp-elsewhere-1-0", 2)
    before = sorted(store.root.rglob("*"))
    said = collect(store, max_age_s=30 * DAY_S, now_s=NOW_S, dry_run=True)
    assert sorted(store.root.rglob("*")) == before
    done = collect(store, max_age_s=30 * DAY_S, now_s=NOW_S)
    assert said == done
    assert len(done.removed) == 2


def test_what_is_pinned_or_promoted_stays_and_says_why(store: Store) -> None:
    commit(store, "promoted", idle_days=400)
    store.notes.pin("outputs", "promoted", "promoted to artifacts/adapter")
    collected = collect(store, max_age_s=0, max_bytes=0, now_s=NOW_S)
    assert collected.kept == (("outputs/promoted", "promoted to artifacts/adapter"),)
    assert keys(store) == {"promoted"}


def test_what_this_process_has_read_stays(store: Store) -> None:
    commit(store, "old", idle_days=31)
    store.read("outputs", "old")
    assert collect(Store(store.root), max_bytes=0, now_s=NOW_S).kept == (("outputs/old", "in use"),)
    store.close()
    assert len(collect(store, max_bytes=0, now_s=NOW_S).removed) == 1


def test_a_store_that_is_gone_uses_nothing(store: Store) -> None:
    commit(store, "old", idle_days=31)
    Store(store.root).read("outputs", "old")
    assert len(collect(store, max_bytes=0, now_s=NOW_S).removed) == 1


def test_what_another_process_has_read_stays_until_it_ends(store: Store) -> None:
    commit(store, "old", idle_days=31)
    code = (
        "import sys; from pathlib import Path; from pytest_finetune.store import Store;"
        "store = Store(Path(sys.argv[1])); store.read('outputs', 'old');"
        "print('read', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(store.root)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "read\n"
        assert collect(store, max_bytes=0, now_s=NOW_S).kept == (("outputs/old", "in use"),)
        reader.kill()
    assert len(collect(store, max_bytes=0, now_s=NOW_S).removed) == 1


def test_what_is_locked_stays(store: Store) -> None:
    commit(store, "old", idle_days=31)
    with store.lock("outputs", "old", pytest.fail):
        assert collect(store, max_bytes=0, now_s=NOW_S).kept == (("outputs/old", "locked"),)
    assert len(collect(store, max_bytes=0, now_s=NOW_S).removed) == 1


def test_leftovers_go_when_they_are_old(store: Store) -> None:
    commit(store, "young")
    for name, days in (("tmp-elsewhere-1-0", 2.0), ("tmp-elsewhere-2-0", 0.5)):
        (store.root / name).mkdir()
        (store.root / name / "half").write_text("x")
        used(store.root / name / "half", days)
        used(store.root / name, days)
    (store.root / "set-aside" / "outputs-x-0").mkdir(parents=True)
    used(store.root / "set-aside" / "outputs-x-0", 31)
    (store.root / "set-aside" / "outputs-y-0").mkdir()
    places = [removal.place for removal in collect(store, now_s=NOW_S).removed]
    assert places == ["tmp-elsewhere-1-0", "set-aside/outputs-x-0"]
    assert (store.root / "tmp-elsewhere-2-0").exists()
    assert keys(store) == {"young"}


def test_what_was_set_aside_counts_and_goes_with_its_reason_before_any_entry(store: Store) -> None:
    for name, days in (("outputs-x-0", 31.0), ("gguf-y-0", 8.0), ("gguf-z-0", 2.0)):
        folder = store.root / "set-aside" / name
        folder.mkdir(parents=True)
        (folder / "model.gguf").write_bytes(b"x" * 5000)
        used(folder, 90)  # when its entry was last used says nothing
        reason = folder.with_name(f"{name}.txt")
        reason.write_text("gguf/z: model.gguf does not match its checksum\n")
        used(reason, days)
    commit(store, "young")
    first = collect(store, now_s=NOW_S, dry_run=True)
    assert [one.place for one in first.removed] == ["set-aside/outputs-x-0"]
    assert [place for place, _ in first.kept] == ["set-aside/gguf-y-0", "set-aside/gguf-z-0"]
    assert first.kept[1][1] == "damaged and set aside 2.0 days ago, 4.9 KiB"
    assert first.removed[0].size_bytes > 5000
    assert first.left_bytes > 11_000
    assert len(list((store.root / "set-aside").iterdir())) == 6
    aged = collect(store, max_age_s=7 * DAY_S, now_s=NOW_S)
    assert [one.place for one in aged.removed] == ["set-aside/outputs-x-0", "set-aside/gguf-y-0"]
    small = collect(store, max_bytes=3000, now_s=NOW_S)
    assert [one.place for one in small.removed] == ["set-aside/gguf-z-0"]
    assert list((store.root / "set-aside").iterdir()) == []
    assert keys(store) == {"young"}


def test_checkpoints_of_a_forgotten_training_go_and_those_of_a_running_one_stay(store: Store) -> None:
    for key in ("forgotten", "running", "recent"):
        folder = store.checkpoints(key)
        (folder / "state").write_text("x")
        if key != "recent":
            used(folder / "state", 31)
            used(folder, 31)
    with store.lock("adapters", "running", pytest.fail):
        collect(store, max_age_s=30 * DAY_S, now_s=NOW_S)
    assert {path.name for path in (store.root / "checkpoints").iterdir()} == {"running", "recent"}


def test_foreign_things_and_links_are_not_ours_to_remove(store: Store, tmp_path: Path) -> None:
    commit(store, "old", idle_days=31)
    (store.root / "outputs" / "mine.txt").write_text("x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("x")
    (store.root / "outputs" / "link").symlink_to(tmp_path / "outside")
    (store.root / "tmp-link").symlink_to(tmp_path / "outside")
    os.utime(store.root / "tmp-link", (0, 0), follow_symlinks=False)
    collect(store, max_age_s=0, max_bytes=0, now_s=NOW_S)
    assert (tmp_path / "outside" / "file").exists()
    assert {path.name for path in (store.root / "outputs").iterdir()} == {"mine.txt", "link"}


def test_an_entry_that_cannot_be_removed_is_a_clear_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, "old", idle_days=31)

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StoreError, match=r"cannot remove outputs/old at .*permission denied; give this user"):
        collect(store, max_bytes=0, now_s=NOW_S)


def test_the_next_commit_removes_what_a_killed_writer_left(
    store: Store, adapter: Callable[..., Callable[[Path], None]]
) -> None:
    code = (
        "import os, sys; from pathlib import Path; from pytest_finetune.store import Store\n"
        "def write(folder):\n    (folder / 'half').write_text('x'); os.kill(os.getpid(), 9)\n"
        "Store(Path(sys.argv[1])).commit('adapters', 'key', write)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(store.root)], cwd=ROOT, check=False)
    assert killed.returncode == -9
    assert len(list(store.root.glob("tmp-*"))) == 1
    assert store.read("adapters", "key") is None
    store.commit("adapters", "key", adapter(0.5))
    assert not list(store.root.glob("tmp-*"))


def test_a_living_writer_is_left_alone(store: Store) -> None:
    def slowly(folder: Path) -> None:
        (folder / "a").write_text("x")
        Store(store.root).commit("outputs", "quick", lambda inner: write(inner / "b", b"y"))
        assert (folder / "a").exists()

    store.commit("outputs", "slow", slowly)
    assert keys(store) == {"slow", "quick"}


def test_the_folder_of_a_writer_in_another_container_is_left_alone(store: Store) -> None:
    """Its process id means nothing here, but it holds its folder."""
    from pytest_finetune.store.lock import exclusive

    commit(store, "any")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = store.root / f"tmp-{host_name()}-{dead.pid}-{'0' * 32}"
    folder.mkdir()
    handle = exclusive(folder)
    assert handle is not None
    commit(store, "more")
    assert folder.exists()
    os.close(handle)
    commit(store, "still-more")
    assert not folder.exists()


def test_merged_models_go_first_since_they_are_made_again_without_training(store: Store) -> None:
    commit(store, "merged", 10_000, idle_days=1, kind="models")
    commit(store, "old", 10_000, idle_days=30)
    collected = collect(store, max_bytes=11_500, now_s=NOW_S)
    assert [removal.place for removal in collected.removed] == ["models/merged"]


def job(store: Store, digit: str, state: str | None, days: float, **told: str) -> str:
    """A job whose last word is so many days old, with its log; returns its place."""
    key = digit * 64
    store.jobs.ask(key, {"rows": ["private"]})
    store.jobs.send(key, 1, {"executor": "command"})
    if state is not None:
        store.jobs.tell(key, 1, {"state": state, **told})
    store.log(f"job-{key[:32]}").write_text("printed")
    for path in (*(store.root / JOBS / key).iterdir(), store.root / JOBS / key, store.log(f"job-{key[:32]}")):
        used(path, days)
    return f"{JOBS}/{key}"


def test_jobs_that_are_over_go_and_those_that_may_go_on_stay(store: Store) -> None:
    commit(store, "kept", idle_days=0.1)
    commit(store, "gone", idle_days=31)
    failed, young = job(store, "1", "failed", 3), job(store, "2", "failed", 1)
    running, vanished = job(store, "3", "running", 0.9), job(store, "4", "running", 3)
    queued, again = job(store, "5", None, 20), job(store, "6", "interrupted", 20)
    forgotten = job(store, "7", None, 31)
    found, lost = (
        job(store, d, "done", 31, kind="outputs", made=m) for d, m in (("8", "kept"), ("9", "gone"))
    )
    said = collect(store, max_age_s=2 * DAY_S, now_s=NOW_S, dry_run=True)
    assert said == collect(store, max_age_s=2 * DAY_S, now_s=NOW_S)
    assert {r.place: r.why for r in said.removed if r.place.startswith(JOBS)} == {
        failed: "a job that ended 3.0 days ago",
        vanished: "a job that vanished 3.0 days ago",
        forgotten: "a job that was not heard of for 31.0 days",
        lost: "a job that ended 31.0 days ago",
    }
    assert said.kept == tuple((place, "a job that may wait in a queue") for place in (queued, again))
    stay = {young, running, queued, again, found}
    assert {f"{JOBS}/{path.name}" for path in (store.root / JOBS).iterdir()} == stay
    assert {path.stem for path in (store.root / "logs").iterdir()} == {f"job-{p[5:37]}" for p in stay}
    assert (running, "running") in collect(store, max_age_s=0, now_s=NOW_S).kept
