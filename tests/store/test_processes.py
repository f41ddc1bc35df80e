from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pytest_finetune.store import Store

ROOT = Path(__file__).parents[2]
Write = Callable[[Path], None]

WORKER = """
import sys, time
from pathlib import Path
from pytest_finetune.store import Store
store, key = Store(Path(sys.argv[1])), sys.argv[2]
work_s, use_lock = float(sys.argv[3]), sys.argv[4] == "lock"
def train(folder):
    with open(Path(sys.argv[1]).parent / "trainings", "a") as trainings:
        trainings.write(key + "\\n")
    time.sleep(work_s)
    data = key.encode() * 2000
    (folder / "adapter_model.safetensors").write_bytes(
        (header := b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(data), len(data)))
        and len(header).to_bytes(8, "little") + header + data)
def once():
    return store.read("adapters", key) or store.commit("adapters", key, train)
heard = []
if use_lock:
    with store.lock("adapters", key, heard.append):
        entry = once()
else:
    entry = once()
print(entry.files["adapter_model.safetensors"].sha256, len(heard), store.warnings)
"""


def start(store: Store, key: str, work_s: float = 0.3, how: str = "lock") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(store.root), key, str(work_s), how]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def results(workers: list[subprocess.Popen[str]]) -> list[list[str]]:
    return [worker.communicate(timeout=240)[0].split(maxsplit=2) for worker in workers]


def trainings(store: Store) -> list[str]:
    return sorted((store.root.parent / "trainings").read_text().split())


def test_eight_processes_on_one_key_train_once(store: Store) -> None:
    found = results([start(store, "key") for _ in range(8)])
    assert trainings(store) == ["key"]
    assert len({digest for digest, _, _ in found}) == 1
    assert {warnings.strip() for _, _, warnings in found} == {"[]"}
    assert list((store.root / "locks").iterdir()) == []


def test_without_any_lock_they_still_agree_on_one_entry(store: Store) -> None:
    found = results([start(store, "key", 0.1, "no lock") for _ in range(8)])
    assert len({digest for digest, _, _ in found}) == 1
    assert {warnings.strip() for _, _, warnings in found} == {"[]"}
    assert [path.name for path in store.root.iterdir() if path.name.startswith("tmp-")] == []
    assert [entry.key for entry in store.entries("adapters")] == ["key"]


def test_different_keys_do_not_wait_for_each_other(store: Store) -> None:
    found = results([start(store, key) for key in ("one", "two", "three", "four")])
    assert trainings(store) == ["four", "one", "three", "two"]
    assert [told for _, told, _ in found] == ["0"] * 4
    assert len({digest for digest, _, _ in found}) == 4


def test_killed_at_any_moment_nothing_broken_is_ever_served(store: Store) -> None:
    chance = random.Random(7)
    expected = None
    for turn in range(12):
        worker = start(store, f"key{turn % 3}", 0.05)
        time.sleep(chance.uniform(0.0, 0.35))
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        entry = Store(store.root).read("adapters", f"key{turn % 3}")
        if entry is not None and turn % 3 == 0:
            expected = expected or entry.files
            assert entry.files == expected
    final = results([start(store, f"key{n}", 0.0) for n in range(3)])
    assert len({digest for digest, _, _ in final}) == 3
    assert {warnings.strip() for _, _, warnings in final} == {"[]"}
    last = Store(store.root)
    last.commit("plans", "sweeps", lambda folder: write(folder / "plan.json"))
    assert sorted(path.name for path in store.root.iterdir() if path.name.startswith(("tmp-", ".tmp-"))) == []
    assert not (store.root / "set-aside").exists()


def test_what_a_writer_killed_after_its_commit_has_left_goes_with_the_next_read(
    store: Store, adapter: Callable[..., Write]
) -> None:
    store.commit("adapters", "key", adapter(1.0))
    lock, checkpoints = store.root / "locks" / "adapters-key.lock", store.root / "checkpoints" / "key"
    (checkpoints / "checkpoint-2").mkdir(parents=True)
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("{}")
    assert Store(store.root).read("adapters", "key") is not None
    assert (lock.exists(), checkpoints.exists()) == (False, False)


def test_what_somebody_retrains_from_stays(store: Store, adapter: Callable[..., Write]) -> None:
    store.commit("adapters", "key", adapter(1.0))
    checkpoints = store.root / "checkpoints" / "key"
    (checkpoints / "checkpoint-2").mkdir(parents=True)
    with store.lock("adapters", "key", print):
        assert Store(store.root).read("adapters", "key") is not None
        assert (checkpoints / "checkpoint-2").is_dir()
        assert (store.root / "locks" / "adapters-key.lock").exists()
    assert Store(store.root).read("adapters", "key") is not None
    assert not checkpoints.exists()


def test_a_training_killed_with_kill_9_ends_with_the_same_adapter() -> None:
    command = [sys.executable, "benchmarks/kill_minus_nine.py", "--rounds", "4", "--seed", "3"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\n4 kills in \d+ s; 0 faults\n$", ran.stdout)


def write(file: Path) -> None:
    file.write_text("{}")
