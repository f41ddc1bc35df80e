"""Real trouble: a full disk, a read-only file system, missing rights; in processes of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_finetune.store import Look, Store, StoreError

ROOT = Path(__file__).parents[2]
Adapter = Callable[..., Callable[[Path], None]]

PRELUDE = """
import sys
from pathlib import Path
from pytest_finetune.store import Look, Store, StoreError
store = Store(Path(sys.argv[1]))
def attempt(act):
    try:
        print("done:", act())
    except StoreError as error:
        print("error:", error)
def write(folder, size=100):
    (folder / "answers.jsonl").write_bytes(b"x" * size)
"""


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode == 0


needs_mount = pytest.mark.skipif(
    not can_mount(), reason="this system lets no user mount a file system of its own"
)


def run_mounted(prepare: str, code: str, folder: Path) -> list[str]:
    """Run code with a file system mounted at `folder` that only it sees."""
    script = f'{prepare} && exec "{sys.executable}" -c "$CODE" "{folder}/store"'
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        cwd=ROOT, env={**os.environ, "CODE": PRELUDE + code}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_mount
def test_a_full_disk_is_said_and_leaves_the_good_entries_whole(tmp_path: Path) -> None:
    lines = run_mounted(
        f"mount -t tmpfs -o size=256k none {tmp_path}",
        """
store.commit("outputs", "good", write)
attempt(lambda: store.commit("outputs", "big", lambda folder: write(folder, 1_000_000)))
def rust(folder):
    import numpy as np
    from safetensors.numpy import save_file
    save_file({"w": np.zeros(1_000_000, np.uint8)}, folder / "adapter_model.safetensors")
attempt(lambda: store.commit("adapters", "big", rust))
print(store.read("outputs", "good") is not None, store.read("outputs", "big"), list(store.root.glob("tmp-*")))
room = b"x" * 300_000
try:
    (store.root / "filler").write_bytes(room)
except OSError:
    pass
attempt(lambda: store.remember("triage", {"a": "b" * 5000}))
attempt(lambda: store.looks.register(Look("a", "o", "r", frozenset({"row" * 2000}))))
attempt(lambda: store.checkpoints("key").is_dir() or "a folder")
(store.root / "filler").unlink()
print(store.looks.register(Look("a", "o", "r", frozenset({"row"}))))
print(store.commit("outputs", "big", write).key)
""",
        tmp_path,
    )
    full = "the disk is full; free space (see `pytest-finetune gc`), or use --finetune-store=DIR"
    assert lines[0] == f"error: store: cannot store outputs/big at {tmp_path}/store: {full}"
    assert lines[1] == f"error: store: cannot store adapters/big at {tmp_path}/store: {full}"
    assert lines[2] == "True None []"
    assert lines[3].startswith("error: store: cannot remember the last run at")
    assert lines[4].startswith("error: store: cannot write down a look at")
    assert lines[3].endswith(full)
    assert lines[4].endswith(full)
    assert lines[-2:] == ["1", "big"]


@needs_mount
def test_a_read_only_store_is_read_and_says_that_it_cannot_be_written(tmp_path: Path) -> None:
    made = Store(tmp_path / "store")
    made.commit("outputs", "good", lambda folder: write(folder / "answers.jsonl"))
    bad = made.commit("outputs", "bad", lambda folder: write(folder / "answers.jsonl"))
    (bad.path / "answers.jsonl").write_text("changed")
    made.close()
    made.looks.register(Look("a", "o", "r", frozenset({"row"})))
    lines = run_mounted(
        f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}",
        """
print(store.read("outputs", "good") is not None, store.read("outputs", "bad"))
print(store.warnings)
attempt(lambda: store.commit("outputs", "new", write))
attempt(lambda: store.commit("outputs", "bad", write))
attempt(lambda: store.remember("triage", {}))
attempt(lambda: store.looks.register(Look("b", "o", "r", frozenset({"row"}))))
print(store.looks.earlier(Look("b", "o", "r", frozenset({"row"}))))
with store.lock("outputs", "good", print) as lock:
    print(lock.held, store.warnings[-1])
from pytest_finetune.store import collect
attempt(lambda: collect(store, max_bytes=0))
""",
        tmp_path,
    )
    assert lines[0] == "True None"
    assert (
        "answers.jsonl has 7 bytes, 3 were committed (it cannot be moved away: Read-only file system)"
        in lines[1]
    )
    for line in lines[2:6]:
        assert line.startswith("error: store: cannot ")
        assert line.endswith(
            "the file system is read-only; use --finetune-store=DIR for a folder that can be written"
        )
    assert lines[6] == "2"
    assert lines[7] == "False store: no lock for outputs/good (Read-only file system); going on without it"
    assert "error: store: cannot remove outputs/bad" in lines[8]


def write(file: Path) -> None:
    file.write_text("yes")


@contextlib.contextmanager
def without_special_rights() -> Iterator[None]:
    """Become nobody for the block when the tests run as root, to whom no permission is denied."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_missing_rights_are_said(public_folder: Path) -> None:
    store = Store(public_folder / "store")
    good = store.commit("outputs", "good", lambda folder: write(folder / "answers.jsonl"))
    (good.path / "answers.jsonl").chmod(0)
    store.root.chmod(0o555)
    other, error = Store(store.root), ""
    with without_special_rights():
        found = other.read("outputs", "good")
        try:
            other.commit("outputs", "new", lambda folder: write(folder / "answers.jsonl"))
        except StoreError as refused:
            error = str(refused)
    store.root.chmod(0o755)
    (good.path / "answers.jsonl").chmod(0o644)
    assert found is None
    assert (
        f"store: cannot read outputs/good at {good.path}: permission denied; give this user"
        in other.warnings[0]
    )
    assert other.warnings[0].endswith("it counts as a miss")
    assert error.startswith(f"store: cannot store outputs/new at {store.root}: permission denied")
    assert store.read("outputs", "good") is not None


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_file_in_the_place_of_the_store_is_said(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("mine")
    store = Store(tmp_path / "store")
    assert store.read("adapters", "key") is None
    with pytest.raises(StoreError, match="a file stands where the store needs a folder"):
        store.commit("outputs", "key", lambda folder: write(folder / "answers.jsonl"))
    assert (tmp_path / "store").read_text() == "mine"


def test_an_error_of_the_writer_is_its_own(store: Store) -> None:
    def missing(folder: Path) -> None:
        (folder / "nowhere" / "x").write_text("")

    with pytest.raises(FileNotFoundError):
        store.commit("outputs", "key", missing)


def test_the_manifest_is_the_last_thing_written(
    store: Store, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash before it leaves a folder without one: never an entry, whatever the disk had kept of it."""
    order: list[str] = []
    real = os.fsync

    def watch(handle: int) -> None:
        order.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real(handle)

    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not name open files")
    store.commit("outputs", "first", lambda folder: write(folder / "answers.jsonl"))
    monkeypatch.setattr("os.fsync", watch)
    entry = store.commit("adapters", "key", adapter(0.5))
    part = order[-2]
    assert set(order[:2]) == {"adapter_model.safetensors", "adapter_config.json"}
    assert order[2:] == [part, "MANIFEST.json", part, "adapters"]
    assert part.startswith("tmp-")
    assert entry.path.name == "key"
