"""NVIDIA's cards: through NVML (nvidia-ml-py), else through nvidia-smi."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_finetune.memory.budget import Budget, Process
from pytest_finetune.memory.cards import UNKNOWN, family_of
from pytest_finetune.memory.drivers import output


def card(index: int) -> Budget | None:
    """Return the card that CUDA calls `index`, or None when there is none or the driver does not answer."""
    try:
        import pynvml
    except ImportError:
        return _from_tool(index)
    try:
        with _session(pynvml):
            return _from_nvml(pynvml, _handle(pynvml, index))
    except (pynvml.NVMLError, IndexError):
        return None


def holders(index: int) -> dict[int, Process]:
    """Return the processes on the card by their id, this one included where the driver counts it."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        with _session(pynvml):
            return _processes(pynvml, _handle(pynvml, index))
    except (pynvml.NVMLError, IndexError):
        return {}


@contextmanager
def _session(nvml: Any) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _from_nvml(nvml: Any, handle: Any) -> Budget:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    capability = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    runtime = nvml.nvmlSystemGetCudaDriverVersion_v2()
    processes = _processes(nvml, handle)
    own = processes.pop(os.getpid(), None)
    return Budget(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        device="cuda",
        total_bytes=memory.total,
        # What this process holds (the model that answered before the training) is given back before it trains.
        free_bytes=memory.free + (own.bytes if own else 0),
        driver=_text(nvml.nvmlSystemGetDriverVersion()),
        runtime=f"CUDA {runtime // 1000}.{runtime % 1000 // 10}",
        processes=tuple(processes.values()),
        family=family_of((capability[0], capability[1])),
    )


def _handle(nvml: Any, index: int) -> Any:
    """Map torch's index to NVML's, which knows nothing of CUDA_VISIBLE_DEVICES."""
    visible = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    if not visible:
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            raise IndexError("CUDA_VISIBLE_DEVICES hides every card")
        return nvml.nvmlDeviceGetHandleByIndex(index)
    word = visible[index]
    if word.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(word))
    if word == "-1":
        raise IndexError("CUDA_VISIBLE_DEVICES hides every card")
    return nvml.nvmlDeviceGetHandleByUUID(word)


def _processes(nvml: Any, handle: Any) -> dict[int, Process]:
    found: dict[int, Process] = {}
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            for entry in ask(handle):
                found[entry.pid] = Process(entry.pid, _name(nvml, entry.pid), entry.usedGpuMemory or 0)
        except nvml.NVMLError:
            continue
    return found


def _name(nvml: Any, pid: int) -> str:
    try:
        return Path(_text(nvml.nvmlSystemGetProcessName(pid))).name or "?"
    except nvml.NVMLError:
        return "?"


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _from_tool(index: int) -> Budget | None:
    fields = "name,memory.total,memory.free,driver_version,compute_cap"
    text = output(["nvidia-smi", f"--id={index}", f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    parts = [part.strip() for part in (text or "").partition("\n")[0].split(",")]
    if len(parts) != 5 or not parts[1].isdigit() or not parts[2].isdigit():
        return None
    major, _, minor = parts[4].partition(".")
    family = family_of((int(major), int(minor or 0))) if major.isdigit() else UNKNOWN
    return Budget(parts[0], "cuda", int(parts[1]) << 20, int(parts[2]) << 20, driver=parts[3], family=family)
