"""NVIDIA's cards: through NVML (nvidia-ml-py), else through nvidia-smi; CUDA itself is never initialised."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

from pytest_finetune.memory.hardware.budget import Budget, Process
from pytest_finetune.memory.hardware.cards import UNKNOWN, family_of
from pytest_finetune.memory.hardware.drivers import output

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


class Card(NamedTuple):
    """A card that CUDA shows to this process: its word in CUDA_VISIBLE_DEVICES, and its own name."""

    word: str
    uuid: str


def visible() -> tuple[Card, ...]:
    """Return the cards that CUDA shows to this process, in torch's order; none where no driver answers."""
    try:
        import pynvml
    except ImportError:
        text = output(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"])
        return shown((text or "").split(), os.environ.get(VISIBLE))
    try:
        with _session(pynvml):
            return _visible(pynvml)
    except pynvml.NVMLError:
        return ()


def shown(uuids: Sequence[str], words: str | None) -> tuple[Card, ...]:
    """Read CUDA_VISIBLE_DEVICES as CUDA does: in its own order, up to the first word that names no card.

    A number counts as the driver and nvidia-smi do (CUDA_DEVICE_ORDER=PCI_BUS_ID).

    >>> [card.uuid for card in shown(("GPU-1a", "GPU-2b", "GPU-3c"), "2,GPU-1,-1,1")]
    ['GPU-3c', 'GPU-1a']
    """
    if words is None:
        return tuple(Card(str(index), uuid) for index, uuid in enumerate(uuids))
    found = []
    for word in map(str.strip, words.split(",")):
        uuid = _uuid(uuids, word)
        if uuid is None:
            break
        found.append(Card(word, uuid))
    return tuple(found)


def _uuid(uuids: Sequence[str], word: str) -> str | None:
    if word.isdigit():
        return uuids[int(word)] if int(word) < len(uuids) else None
    if word.startswith("MIG-"):
        return word
    matching = [uuid for uuid in uuids if word and uuid.startswith(word)]  # CUDA takes a part that is enough
    return matching[0] if len(matching) == 1 else None


def awake() -> bool:
    """Tell whether CUDA was initialised in this process: from then on it reads CUDA_VISIBLE_DEVICES no more.

    Asked of the driver: ``torch.cuda.is_available()`` initialises it as well, and torch does not know.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return bool(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) == 0)  # 3 is CUDA_ERROR_NOT_INITIALIZED


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
def _session(nvml: ModuleType) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _from_nvml(nvml: ModuleType, handle: object) -> Budget:
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


def _visible(nvml: ModuleType) -> tuple[Card, ...]:
    uuids = [_uuid_at(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    return shown(uuids, os.environ.get(VISIBLE))


def _uuid_at(nvml: ModuleType, index: int) -> str:
    """Return a card's UUID, nothing for one that the driver does not let us near: it keeps its number all the same."""
    try:
        return _text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(index)))
    except nvml.NVMLError:
        return ""


def _handle(nvml: ModuleType, index: int) -> object:
    """Map torch's index to NVML's card: NVML knows nothing of CUDA_VISIBLE_DEVICES."""
    return nvml.nvmlDeviceGetHandleByUUID(_visible(nvml)[index].uuid)


def _processes(nvml: ModuleType, handle: object) -> dict[int, Process]:
    found: dict[int, Process] = {}
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            for entry in ask(handle):
                found[entry.pid] = Process(entry.pid, _name(nvml, entry.pid), entry.usedGpuMemory or 0)
        except nvml.NVMLError:
            continue
    return found


def _name(nvml: ModuleType, pid: int) -> str:
    try:
        return Path(_text(nvml.nvmlSystemGetProcessName(pid))).name or "?"
    except nvml.NVMLError:
        return "?"


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _from_tool(index: int) -> Budget | None:
    cards = visible()
    if index >= len(cards):
        return None
    fields = "name,memory.total,memory.free,driver_version,compute_cap"
    text = output(
        ["nvidia-smi", f"--id={cards[index].uuid}", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    )
    parts = [part.strip() for part in (text or "").partition("\n")[0].split(",")]
    if len(parts) != 5 or not parts[1].isdigit() or not parts[2].isdigit():
        return None
    major, _, minor = parts[4].partition(".")
    family = family_of((int(major), int(minor or 0))) if major.isdigit() else UNKNOWN
    return Budget(parts[0], "cuda", int(parts[1]) << 20, int(parts[2]) << 20, driver=parts[3], family=family)
