"""A GPU for one process: with stand-ins for the driver, real processes and real locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_finetune.memory.hardware import leases, nvidia
from pytest_finetune.store.disk import host_name

ROOT = Path(__file__).parents[2]
PYNVML = """
import os
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return int(os.environ["GPUS"])
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetUUID(handle): return f"GPU-{'abcdefgh'[handle]}"
"""
HOLDER = """
import os, sys, time
from pytest_finetune.memory.hardware.leases import lease_gpu
say = lambda text: print("said:", text, flush=True)
lease = lease_gpu(int(sys.argv[1]) if sys.argv[1:] else None, say, say)
print(lease.card.uuid, lease.device, os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("CUDA_DEVICE_ORDER"), flush=True)
time.sleep(60)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a process that leases a GPU and holds it until it is killed."""
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "pynvml.py").write_text(PYNVML)
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, gpus: int = 2, visible: str | None = None) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(tmp_path / "driver"), str(ROOT)])
        env = {**os.environ, "PYTHONPATH": path, "GPUS": str(gpus), "TMPDIR": str(tmp_path)}
        env.pop("CUDA_DEVICE_ORDER", None)
        env.pop("CUDA_VISIBLE_DEVICES", None)
        if visible is not None:
            env["CUDA_VISIBLE_DEVICES"] = visible
        command = [sys.executable, "-c", HOLDER, *arguments]
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def test_two_processes_lease_two_gpus_and_a_third_waits_until_one_is_killed(
    start: Start, tmp_path: Path
) -> None:
    first = start()
    assert line(first) == "GPU-a cuda 0 PCI_BUS_ID"
    second = start()
    assert line(second) == "GPU-b cuda 1 PCI_BUS_ID"
    third = start()
    said = line(third)
    assert said.startswith("said: waiting for one of GPU 0, GPU 1, locked by ")
    for holder in (first, second):
        assert f"process {holder.pid} on {host_name()} since 20" in said
    second.send_signal(signal.SIGKILL)
    second.wait()
    assert line(third) == "GPU-b cuda 1 PCI_BUS_ID"
    (folder,) = tmp_path.glob("pytest-finetune-leases-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(file.name for file in folder.iterdir()) == ["GPU-a.lock", "GPU-b.lock"]


def test_what_is_visible_is_respected_and_one_gpu_is_the_same_under_any_name(start: Start) -> None:
    assert line(start(gpus=4, visible="2,GPU-d")) == "GPU-c cuda 2 None"
    assert line(start(gpus=4, visible="GPU-c,3")) == "GPU-d cuda 3 None"
    assert line(start(gpus=4, visible="GPU-c")).startswith("said: waiting for GPU-c, locked by process ")


def test_a_gpu_that_is_named_is_waited_for_even_where_another_is_free(start: Start) -> None:
    holder = start("1")
    assert line(holder) == "GPU-b cuda 1 PCI_BUS_ID"
    late = start("1")
    assert line(late).startswith(f"said: waiting for GPU 1, locked by process {holder.pid} on ")
    holder.kill()
    assert line(late) == "GPU-b cuda 1 PCI_BUS_ID"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[nvidia.Card, ...]:
    """Two GPUs for this very process."""
    cards = nvidia.shown(("GPU-a", "GPU-b"), None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(nvidia, "visible", lambda: cards)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    return cards


@pytest.mark.usefixtures("two_gpus")
def test_a_lease_that_is_given_back_leaves_no_file(tmp_path: Path) -> None:
    lease = leases.lease_gpu(None, pytest.fail, pytest.fail)
    assert lease is not None
    assert lease.as_json() == {"uuid": "GPU-a", "cuda_visible_devices": "0"}
    lease.release()
    (folder,) = tmp_path.glob("pytest-finetune-leases-*")
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("two_gpus")
def test_where_cuda_is_awake_the_gpu_is_named_since_nothing_can_be_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvidia, "awake", lambda: True)
    held = [leases.lease_gpu(None, pytest.fail, pytest.fail) for _ in range(2)]
    assert [lease and lease.device for lease in held] == ["cuda:0", "cuda:1"]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    for lease in held:
        assert lease is not None
        lease.release()


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_the_driver_hides_is_not_leased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "visible", lambda: nvidia.shown(("", "GPU-b"), None))
    lease = leases.lease_gpu(None, pytest.fail, pytest.fail)
    assert lease is not None
    assert lease.card == nvidia.Card("1", "GPU-b")
    lease.release()


def test_without_a_visible_gpu_there_is_nothing_to_lease(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(nvidia, "visible", tuple)
    assert leases.lease_gpu(None, pytest.fail, pytest.fail) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("trap", ["link", "file", "open"])
def test_a_folder_that_is_not_private_holds_no_lease(trap: str, tmp_path: Path) -> None:
    place = tmp_path / f"pytest-finetune-leases-{os.getuid()}"
    if trap == "link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    elif trap == "file":
        place.touch()
    else:
        place.mkdir()
        place.chmod(0o777)
    heard: list[str] = []
    assert leases.lease_gpu(None, pytest.fail, heard.append) is None
    why = "File exists" if trap == "file" else "not a private folder of this user"
    assert heard == [f"no GPU is leased, so workers may meet on one: {place}: {why}"]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
