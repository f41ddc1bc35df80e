"""What is here: the accelerator, its free memory and who holds the rest, RAM and disk, all without torch."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import re
import shutil
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

from pytest_finetune.memory.hardware import amd, nvidia
from pytest_finetune.memory.hardware.budget import HEADROOM, Budget, Process
from pytest_finetune.memory.hardware.cards import find_card
from pytest_finetune.memory.hardware.sizes import looks_like_a_size, parse_size

__all__ = ["HEADROOM", "Budget", "Process", "detect", "parse_budget"]


def parse_budget(text: str, *, headroom: float = HEADROOM) -> Budget:
    """Read ``8GiB``, ``24GB`` or the name of a known card.

    Raises SizeError for a bad size and UnknownCardError for a name that the table does not have.
    """
    if looks_like_a_size(text):
        size = parse_size(text)
        budget = Budget(f"a card with {text.strip()}", "cuda", size, size, source="size")
    else:
        card = find_card(text)
        device = "rocm" if card.family.vendor == "amd" else "cuda"
        budget = Budget(
            card.name, device, card.total_bytes, card.total_bytes, source="named card", family=card.family
        )
    return budget.with_headroom(headroom)


def detect(device: str, store: Path, *, headroom: float = HEADROOM) -> Budget:
    """Look at what is really here for `device`: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``rocm``.

    `store` is the folder whose disk counts; it need not exist yet. Imports no torch and never raises for
    missing hardware: without an accelerator the budget is the RAM, with device ``cpu``.
    """
    kind = accelerator() if device == "auto" else device_class(device)
    index = int(device.partition(":")[2] or 0)
    rocm = torch_build().get("hip")
    budget = None
    if kind == "cuda":
        budget = nvidia.card(index) or amd.card(index, rocm)
    elif kind == "rocm":
        budget = amd.card(index, rocm)
    elif kind == "mps":
        ram = ram_bytes()
        budget = Budget("Apple GPU", "mps", ram, available_ram_bytes(), unified=True)
    if budget is None:
        budget = Budget(cpu_name(), "cpu", ram_bytes(), available_ram_bytes(), unified=True)
    return replace(
        budget.with_headroom(headroom), disk_free_bytes=disk_free_bytes(store), ram_bytes=ram_bytes()
    )


def expandable_segments() -> bool:
    """Tell whether PyTorch's allocator was asked for expandable segments, which fragment less."""
    asked = os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or ""
    return "expandable_segments:true" in asked.replace(" ", "").lower()


def own_bytes(device: str) -> int | None:
    """Return what the driver counts for this process on an NVIDIA card.

    None where it does not tell: another vendor, or a container, whose processes have other ids outside.
    """
    own = nvidia.holders(int(device.partition(":")[2] or 0)).get(os.getpid())
    return own.bytes if own is not None and own.bytes else None


def device_class(device: str) -> str:
    """Return the class of a device name: ``cuda:1`` is ``cuda``.

    >>> device_class("cuda:1"), device_class("cpu")
    ('cuda', 'cpu')
    """
    return device.partition(":")[0]


@cache
def accelerator() -> str:
    """Return ``cuda``, ``mps`` or ``cpu``: what the installed torch could use here, without importing it.

    An AMD card under a ROCm build of torch is ``cuda`` as well, because that is its device name in torch.
    """
    build = torch_build()
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    if build.get("hip") and amd.card(0) is not None:
        return "cuda"
    if build.get("cuda") and nvidia.card(0) is not None:
        return "cuda"
    return "cpu"


@cache
def torch_build() -> dict[str, str | None]:
    """Read what the installed torch was built for from its version file: ``version``, ``cuda``, ``hip``."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    file = Path(spec.origin).parent / "version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.findall(r"^(__version__|cuda|hip)\b[^=\n]*=\s*(?:'([^']*)'|None)", text, re.MULTILINE)
    return {("version" if key == "__version__" else key): value or None for key, value in found}


def ram_bytes() -> int:
    """Return the RAM that this process may use: the machine's, or the container's limit when that is smaller."""
    if sys.platform == "win32":
        return _windows_memory()[0]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        return min(total, int(text))
    return total


def available_ram_bytes() -> int:
    """Return the RAM that is free for a new process, caches counted as free."""
    if sys.platform == "win32":
        return _windows_memory()[1]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file() and (found := re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())):
        return min(int(found[1]) * 1024, ram_bytes())
    return ram_bytes()


def disk_free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk on which `folder` lies or will lie."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def cpu_name() -> str:
    """Return the processor's name, and "CPU" when the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (
        found := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text(errors="replace"))
    ):
        return found[1].strip()
    return platform.processor() or "CPU"


def _windows_memory() -> tuple[int, int]:
    """Return (total, available) RAM from GlobalMemoryStatusEx."""

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "available", "c", "d", "e", "f", "g")),
        )

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined, unused-ignore]
    return int(status.total), int(status.available)
