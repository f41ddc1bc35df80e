"""Many real sessions at once: one key is trained once, and every key has the adapter that is its own."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_finetune.store import Store

if TYPE_CHECKING:
    from .conftest import Project


# The one that trains goes on when all four are about to train, and have had time to find the lock.
WAIT = """\
    called("train")
    import time
    until = time.monotonic() + 200
    while LOG.read_text().count("ready") < 4 and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(2)
"""
READY = """
def pytest_runtest_logfinish(nodeid):
    if "test_contract" in nodeid:
        called("ready")
"""


def start(project: Project, name: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--finetune",
        f"--finetune-record={name}",
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.Popen(
        command, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def change_trainer(project: Project, old: str, new: str) -> None:
    text = (project.path / "conftest.py").read_text()
    assert text.count(old) == 1
    project.write({"conftest.py": text.replace(old, new)})


def test_four_sessions_on_one_key_train_once_and_the_others_say_whom_they_wait_for(project: Project) -> None:
    change_trainer(project, '    called("train")\n', WAIT)
    with (project.path / "conftest.py").open("a") as conftest:
        conftest.write(READY)
    sessions = [start(project, f"record{n}") for n in range(4)]
    said = [session.communicate(timeout=280)[0] for session in sessions]
    assert [session.returncode for session in sessions] == [0] * 4, "\n".join(said)
    assert project.calls().count("train") == 1
    records = [json.loads((project.path / f"record{n}" / "record.json").read_text()) for n in range(4)]
    trainings = [record["experiments"][0]["training"] for record in records]
    assert len({training["adapter_sha256"] for training in trainings}) == 1
    assert [training["reused"] for training in trainings].count(False) == 1
    assert {record["experiments"][0]["decision"]["verdict"] for record in records} == {"keep"}
    waiting = [
        line for text in said for line in text.splitlines() if line.startswith("waiting for adapters/")
    ]
    assert waiting
    assert all(", locked by process " in line and " since " in line for line in waiting), waiting
    assert list((project.path / ".finetune" / "locks").iterdir()) == []


def test_four_keys_on_two_workers_are_four_trainings_and_four_adapters(project: Project) -> None:
    text = (project.path / "finetune.yaml").read_text()
    files = {f"r{rank}.yaml": text.replace("{r: 4}", f"{{r: {rank}}}") for rank in (2, 3, 5, 7)}
    project.write(files | {"pytest.ini": f"[pytest]\nfinetune_experiments = {' '.join(files)}\n"})
    # Its one number is the rank, so that an adapter shows whose it is.
    change_trainer(project, 'TABLE.get("delta", 1.0)', "float(request.experiment.lora.r)")
    result = project.run("--finetune", "-n", "2")
    assert result.ret == 0
    assert project.calls().count("train") == 4
    store = Store(project.path / ".finetune")
    assert len(store.entries("adapters")) == 4
    for experiment in project.record()["experiments"]:
        entry = store.read("adapters", experiment["key"])
        assert entry is not None
        assert number(entry.path) == float(experiment["config_file"].removeprefix("r").removesuffix(".yaml"))


def test_what_the_store_says_on_a_worker_stands_in_the_record(project: Project) -> None:
    assert project.run("--finetune").ret == 0
    (weights,) = (project.path / ".finetune" / "adapters").glob("*/adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7e")
    result = project.run("--finetune", "-n", "2")
    assert result.ret == 0
    assert "counts as a miss: adapter_model.safetensors does not match its checksum" in str(
        project.record()["notes"]
    )


def number(adapter: Path) -> float:
    found: float = struct.unpack("<f", (adapter / "adapter_model.safetensors").read_bytes()[-4:])[0]
    return found
