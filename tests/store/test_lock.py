from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pytest_finetune.store import Store, lock
from pytest_finetune.store.disk import host_name

ROOT = Path(__file__).parents[2]
HOLDER = """
import os, sys, time
from pathlib import Path
from pytest_finetune.store import Store
with Store(Path(sys.argv[1])).lock("adapters", "key", print):
    if "--with-child" in sys.argv and os.fork() == 0:
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(store: Store, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of adapters/key until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(store.root), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_free_lock_is_had_at_once_and_leaves_no_file(store: Store) -> None:
    heard: list[str] = []
    with store.lock("adapters", "key", heard.append) as held:
        assert held.held
        assert (store.root / "locks" / "adapters-key.lock").exists()
    assert heard == []
    assert list((store.root / "locks").iterdir()) == []


def test_it_is_free_again_after_an_error_in_the_block(store: Store) -> None:
    with pytest.raises(RuntimeError), store.lock("adapters", "key", print):
        raise RuntimeError
    with store.lock("adapters", "key", pytest.fail) as again:
        assert again.held


def test_locks_of_different_keys_and_kinds_do_not_meet(store: Store) -> None:
    with (
        store.lock("adapters", "key", pytest.fail),
        store.lock("adapters", "other", pytest.fail) as other,
        store.lock("outputs", "key", pytest.fail) as outputs,
    ):
        assert (other.held, outputs.held) == (True, True)


def test_who_waits_hears_who_holds_it_and_since_when_and_goes_on_without_it(store: Store) -> None:
    heard: list[str] = []
    with holder(store) as process, store.lock("adapters", "key", heard.append, timeout_s=0.2) as late:
        assert not late.held
        assert late.waited_s >= 0.2
    assert len(heard) == 1
    assert heard[0].startswith(
        f"waiting for adapters/key, locked by process {process.pid} on {host_name()} since 20"
    )
    assert "still locked" in store.warnings[0]
    assert "going on without the lock" in store.warnings[0]


def test_a_reminder_comes_while_the_waiting_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_REMINDER_S", 0.05)
    heard: list[str] = []
    with holder(store), store.lock("adapters", "key", heard.append, timeout_s=1):
        pass
    assert len(heard) >= 2


def test_a_killed_holder_is_no_obstacle(store: Store) -> None:
    with holder(store) as process:
        process.kill()
        process.wait()
        assert (store.root / "locks" / "adapters-key.lock").exists()
        with store.lock("adapters", "key", pytest.fail, timeout_s=20) as next_one:
            assert next_one.held


def test_a_killed_holder_whose_child_lives_on_is_no_obstacle(store: Store) -> None:
    """A forked data loader inherits the lock and would keep it for as long as it lives."""
    with holder(store, "--with-child") as process:
        process.kill()
        process.wait()
        with store.lock("adapters", "key", print, timeout_s=20) as next_one:
            assert next_one.held
            assert next_one.waited_s > 0.9


@pytest.mark.parametrize(
    "owner", [{}, {"pid": 1, "host": "elsewhere"}, {"host": host_name(), "pid": "x"}, [], "{"]
)
def test_a_lock_file_without_a_known_holder_keeps_its_lock(store: Store, owner: object) -> None:
    """Only a process id of this machine says anything about whether the holder lives."""
    import fcntl

    (store.root / "locks").mkdir(parents=True)
    with (store.root / "locks" / "adapters-key.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(owner if isinstance(owner, str) else json.dumps(owner))
        stream.flush()
        with store.lock("adapters", "key", lambda _: None, timeout_s=1.5) as late:
            assert not late.held


def test_without_the_lock_checkpoints_are_a_folder_of_ones_own(store: Store) -> None:
    shared = store.checkpoints("key")
    with holder(store), store.lock("adapters", "key", lambda _: None, timeout_s=0.05):
        own = store.checkpoints("key")
        assert own != shared
        assert own == store.checkpoints("key")
    with store.lock("adapters", "key", pytest.fail):
        assert store.checkpoints("key") == shared


def test_a_commit_without_the_lock_leaves_the_checkpoints_of_the_holder(store: Store, tmp_path: Path) -> None:
    from pytest_finetune.store import Store as AnotherProcess

    shared = store.checkpoints("key")
    weights = b"\x02\0\0\0\0\0\0\0{}"
    with holder(store):
        late = AnotherProcess(store.root)
        with late.lock("adapters", "key", lambda _: None, timeout_s=0.05):
            own = late.checkpoints("key")
            late.commit(
                "adapters", "key", lambda folder: write(folder / "adapter_model.safetensors", weights)
            )
    assert shared.exists()
    assert not own.exists()


def write(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def test_where_there_are_no_locks_the_work_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def unsupported(handle: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with store.lock("adapters", "key", pytest.fail) as none:
        assert not none.held
    assert "no lock for adapters/key (Operation not supported)" in store.warnings[0]


def test_a_long_wait_still_looks_often(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    now_s = [1000.0]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now_s[0] += seconds
        if now_s[0] > 1100:
            process.kill()
            process.wait()

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    with holder(store) as process, store.lock("adapters", "key", lambda _: None, timeout_s=3600) as held:
        assert held.held
        assert 100 < held.waited_s < 102
    assert max(pauses) <= 0.5
