"""What NVML, nvidia-smi, amdsmi and rocm-smi say, with stand-ins for the driver."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pytest_finetune.memory.hardware import amd, nvidia
from pytest_finetune.memory.hardware.budget import Process
from pytest_finetune.memory.hardware.cards import ADA
from pytest_finetune.memory.hardware.detect import detect, own_bytes
from pytest_finetune.memory.hardware.sizes import GiB

OWN, OTHER = os.getpid(), 4_000_001


class NVMLError(Exception):
    """What pynvml raises."""


def nvml(**changed: Any) -> ModuleType:
    """A stand-in for pynvml: one RTX 4090 with a stranger's 6 GiB and 2 GiB of ours."""
    said: dict[str, Any] = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetCount": lambda: 4,
        "nvmlDeviceGetUUID": lambda index: f"GPU-{index}f2c",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=24 * GiB, free=16 * GiB),
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (8, 9),
        "nvmlDeviceGetName": lambda handle: b"NVIDIA GeForce RTX 4090",
        "nvmlSystemGetDriverVersion": lambda: "580.82",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 13010,
        "nvmlSystemGetProcessName": lambda pid: f"/usr/bin/{'python' if pid == OTHER else 'pytest'}",
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
            SimpleNamespace(pid=OTHER, usedGpuMemory=6 * GiB),
            SimpleNamespace(pid=OWN, usedGpuMemory=2 * GiB),
        ],
        "nvmlDeviceGetGraphicsRunningProcesses": lambda handle: [],
        **changed,
    }
    module = ModuleType("pynvml")
    module.__dict__.update(said)
    return module


@pytest.fixture
def no_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("no_masks")
def test_nvml_tells_the_card_and_who_holds_how_much(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    budget = detect("cuda", tmp_path)
    assert (budget.name, budget.device, budget.family) == ("NVIDIA GeForce RTX 4090", "cuda", ADA)
    assert (budget.driver, budget.runtime) == ("580.82", "CUDA 13.1")
    assert budget.processes == (Process(OTHER, "python", 6 * GiB),)
    assert budget.free_bytes == 18 * GiB  # what this process holds is its own to use
    assert budget.disk_free_bytes
    assert budget.ram_bytes
    assert budget.crowded() == f"6.0 GiB of 24.0 GiB are taken by others: python (pid {OTHER}) 6.0 GiB"
    assert own_bytes("cuda") == 2 * GiB


@pytest.mark.usefixtures("no_masks")
def test_a_driver_that_hides_other_processes_still_counts_their_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlDeviceGetComputeRunningProcesses=lambda handle: []))
    budget = nvidia.card(0)
    assert budget is not None
    assert budget.crowded() == "8.0 GiB of 24.0 GiB are taken by others"
    assert own_bytes("cuda:0") is None


def test_cuda_visible_devices_renumbers_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlDeviceGetHandleByUUID=asked.append))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-1f,MIG-77,GPU-8f2c,0")
    for index in range(3):
        assert nvidia.card(index) is not None
    assert nvidia.card(3) is None  # CUDA reads no further than a card that is not there
    assert asked == ["GPU-3f2c", "GPU-1f2c", "MIG-77"]
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert nvidia.card(0) is None


@pytest.mark.usefixtures("no_masks")
def test_a_card_that_the_driver_hides_keeps_its_number_and_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def uuid(index: int) -> str:
        if index == 0:
            raise NVMLError
        return f"GPU-{index}"

    def handle(uuid: str) -> str:
        if not uuid:
            raise NVMLError
        return uuid

    said = nvml(nvmlDeviceGetUUID=uuid, nvmlDeviceGetHandleByUUID=handle, nvmlDeviceGetCount=lambda: 2)
    monkeypatch.setitem(sys.modules, "pynvml", said)
    assert nvidia.card(0) is None
    assert nvidia.card(1) is not None
    assert [card.uuid for card in nvidia.visible()] == ["", "GPU-1"]


@pytest.mark.parametrize(
    ("words", "uuids"),
    [
        (None, ["GPU-1a", "GPU-2b", "GPU-2c"]),
        ("", []),
        ("-1", []),
        ("2, 0", ["GPU-2c", "GPU-1a"]),
        ("GPU-2b,GPU-1", ["GPU-2b", "GPU-1a"]),
        ("GPU-2,0", []),  # two cards are called so
        ("1,7,0", ["GPU-2b"]),
        ("MIG-5d,1", ["MIG-5d", "GPU-2b"]),
        ("NoDevFiles", []),
    ],
)
def test_the_visible_cards_are_read_as_cuda_reads_them(words: str | None, uuids: list[str]) -> None:
    assert [card.uuid for card in nvidia.shown(("GPU-1a", "GPU-2b", "GPU-2c"), words)] == uuids


def test_cuda_is_not_awake_before_anything_initialised_it() -> None:
    assert nvidia.awake() is False


@pytest.mark.parametrize(("status", "awake"), [(0, True), (3, False)])
def test_cuda_is_awake_when_the_driver_counts_devices(
    monkeypatch: pytest.MonkeyPatch, status: int, awake: bool
) -> None:
    driver = SimpleNamespace(cuDeviceGetCount=lambda count: status)
    monkeypatch.setattr("ctypes.CDLL", lambda name: {"libcuda.so.1": driver}[name])
    assert nvidia.awake() is awake


@pytest.mark.usefixtures("no_masks")
def test_a_driver_without_a_card_is_no_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing() -> None:
        raise NVMLError

    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlInit=missing))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia.card(0) is None
    assert nvidia.holders(0) == {}
    assert detect("cuda", tmp_path).device == "cpu"


def tool(folder: Path, name: str, prints: str, also: str = "") -> None:
    """Put a command on a path that prints something."""
    file = folder / name
    file.write_text(f"#!{sys.executable}\nimport sys\nsaid = {prints!r}\n{also}print(said)\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def test_nvidia_smi_is_asked_where_the_library_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia.card(0) is None
    lists = "if '--query-gpu=uuid' in sys.argv: said = 'GPU-1a\\nGPU-2b'\nelse: assert '--id=GPU-2b' in sys.argv\n"
    tool(tmp_path, "nvidia-smi", "NVIDIA L4, 23034, 22564, 550.54, 8.9", lists)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    budget = nvidia.card(0)
    assert budget is not None
    assert (budget.name, budget.total_bytes, budget.family) == ("NVIDIA L4", 23034 << 20, ADA)
    assert nvidia.card(1) is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tool(tmp_path, "nvidia-smi", "No devices were found")
    assert nvidia.card(0) is None


class AmdSmiException(Exception):
    """What amdsmi raises."""


def amdsmi(**changed: Any) -> ModuleType:
    """A stand-in for amdsmi: one MI300X with a stranger's 64 GiB."""
    said: dict[str, Any] = {
        "AmdSmiException": AmdSmiException,
        "AmdSmiMemoryType": SimpleNamespace(VRAM=0),
        "amdsmi_init": lambda: None,
        "amdsmi_shut_down": lambda: None,
        "amdsmi_get_processor_handles": lambda: ["card"],
        "amdsmi_get_gpu_memory_total": lambda handle, kind: 192 * GiB,
        "amdsmi_get_gpu_memory_usage": lambda handle, kind: 64 * GiB,
        "amdsmi_get_gpu_asic_info": lambda handle: {"market_name": "AMD Instinct MI300X"},
        "amdsmi_get_gpu_driver_info": lambda handle: {"driver_version": "6.12"},
        "amdsmi_get_gpu_process_list": lambda handle: [
            {"pid": OTHER, "name": "N/A", "mem": 0, "memory_usage": {"vram_mem": 64 * GiB}}
        ],
        **changed,
    }
    module = ModuleType("amdsmi")
    module.__dict__.update(said)
    return module


def test_amdsmi_tells_the_card_and_who_holds_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", amdsmi())
    budget = amd.card(0, "6.4")
    assert budget is not None
    assert (budget.name, budget.device, budget.runtime) == ("AMD Instinct MI300X", "rocm", "ROCm 6.4")
    assert (budget.driver, budget.free_bytes) == ("6.12", 128 * GiB)
    assert budget.crowded() == f"64.0 GiB of 192.0 GiB are taken by others: ? (pid {OTHER}) 64.0 GiB"


def test_rocm_smi_is_asked_where_the_library_is_missing_or_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails() -> None:
        raise AmdSmiException

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert amd.card(0) is None
    card = {
        "VRAM Total Memory (B)": str(64 * GiB),
        "VRAM Total Used Memory (B)": str(GiB),
        "Card Series": "MI210",
    }
    tool(tmp_path, "rocm-smi", json.dumps({"card0": card, "system": {"Driver version": "6.8"}}))
    for library in (None, amdsmi(amdsmi_init=fails)):
        monkeypatch.setitem(sys.modules, "amdsmi", library)
        budget = amd.card(0)
        assert budget is not None
        assert (budget.name, budget.driver, budget.free_bytes) == ("MI210", "6.8", 63 * GiB)
        assert amd.card(7) is None


def test_apples_gpu_shares_the_ram(tmp_path: Path) -> None:
    budget = detect("mps", tmp_path)
    assert (budget.name, budget.unified, budget.comparable) == ("Apple GPU", True, True)
    assert budget.total_bytes == budget.ram_bytes
