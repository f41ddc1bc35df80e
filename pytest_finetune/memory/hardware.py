"""What is here: the accelerator, its free memory and who holds the rest, RAM and disk, all without torch."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from pytest_finetune.memory.cards import CDNA, UNKNOWN, Family, family_of, find_card
from pytest_finetune.memory.sizes import looks_like_a_size, parse_size, size_text

HEADROOM: Final = 0.08


@dataclass(frozen=True, slots=True)
class Process:
    """Another process that holds memory of the card; `bytes` is 0 when the driver does not say."""

    pid: int
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Budget:
    """The memory that a training may use, and where that number comes from.

    `total_bytes` is the card (RAM for a CPU), `free_bytes` what is free of it now, `headroom` the share of
    the total that is kept back as policy. `source` is ``measured``, ``named card`` or ``size``.
    """

    name: str
    device: str
    total_bytes: int
    free_bytes: int
    headroom: float = HEADROOM
    driver: str | None = None
    runtime: str | None = None
    processes: tuple[Process, ...] = ()
    disk_free_bytes: int | None = None
    ram_bytes: int | None = None
    source: str = "measured"
    family: Family = UNKNOWN
    unified: bool = False

    @property
    def usable_bytes(self) -> int:
        """Return the bytes to plan with: what is free, at most the total less the headroom."""
        return max(0, min(self.free_bytes, self.total_bytes - int(self.total_bytes * self.headroom)))

    @property
    def comparable(self) -> bool:
        """Tell whether an accelerator stands behind this budget.

        RAM is no answer to the question about a card.
        """
        return self.device != "cpu"

    @property
    def incomparable_because(self) -> str | None:
        """Return why a plan cannot be judged against this budget, or None when it can."""
        if self.comparable:
            return None
        return (
            "this machine has no accelerator: name the card with --finetune-budget=rtx-4090 or a size (8GiB)"
        )

    def with_headroom(self, headroom: float) -> Budget:
        """Return the same budget with another share kept back (0 <= headroom < 1)."""
        if not 0 <= headroom < 1:
            raise ValueError(f"the headroom {headroom!r} is a share of the card and lies between 0 and 1")
        return replace(self, headroom=headroom)

    def crowded(self) -> str | None:
        """Say who holds how much of the card, or None when nobody holds more than a tenth of it."""
        held = self.total_bytes - self.free_bytes
        if self.source != "measured" or self.device == "cpu" or held <= self.total_bytes // 10:
            return None
        holders = sorted(self.processes, key=lambda process: -process.bytes)
        named = ", ".join(f"{p.name} (pid {p.pid}) {size_text(p.bytes)}" for p in holders[:4] if p.bytes)
        return f"{size_text(held)} of {size_text(self.total_bytes)} are taken by others" + (
            f": {named}" if named else ""
        )

    def as_json(self) -> dict[str, Any]:
        """Return the budget as the record keeps it."""
        return {
            "name": self.name,
            "device": self.device,
            "total_bytes": self.total_bytes,
            "free_bytes": self.free_bytes,
            "usable_bytes": self.usable_bytes,
            "headroom": self.headroom,
            "driver": self.driver,
            "runtime": self.runtime,
            "processes": [{"pid": p.pid, "name": p.name, "bytes": p.bytes} for p in self.processes],
            "disk_free_bytes": self.disk_free_bytes,
            "ram_bytes": self.ram_bytes,
            "source": self.source,
            "family": self.family.name,
        }


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
    """Look at what is really here for `device` (``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    ``rocm``).

    `store` is the folder whose disk counts; it need not exist yet. Imports no torch and never raises for
    missing hardware: without an accelerator the budget is the RAM, with device ``cpu``.
    """
    kind = accelerator() if device == "auto" else device_class(device)
    index = int(device.partition(":")[2] or 0)
    budget = None
    if kind == "cuda":
        budget = _nvidia(index) or _amd(index)
    elif kind == "rocm":
        budget = _amd(index)
    elif kind == "mps":
        ram = ram_bytes()
        budget = Budget("Apple GPU", "mps", ram, available_ram_bytes(), unified=True)
    if budget is None:
        budget = Budget(cpu_name(), "cpu", ram_bytes(), available_ram_bytes(), unified=True)
    return replace(
        budget.with_headroom(headroom), disk_free_bytes=disk_free_bytes(store), ram_bytes=ram_bytes()
    )


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
    if build.get("hip") and _amd(0) is not None:
        return "cuda"
    if build.get("cuda") and _nvidia(0) is not None:
        return "cuda"
    return "cpu"


@cache
def torch_build() -> dict[str, str | None]:
    """Read what the installed torch was built for from its version file: ``version``, ``cuda``, ``hip``."""
    import importlib.util

    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    file = Path(spec.origin).parent / "version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.findall(r"^(__version__|cuda|hip)\b[^=\n]*=\s*(?:'([^']*)'|None)", text, re.MULTILINE)
    return {("version" if key == "__version__" else key): value or None for key, value in found}


def ram_bytes() -> int:
    """Return the RAM that this process may use.

    The machine's, or the container's limit when that is smaller.
    """
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


def _nvidia(index: int) -> Budget | None:
    """Ask NVML about the card that CUDA calls `index`, or return None."""
    try:
        import pynvml
    except ImportError:
        return _nvidia_smi(index)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = _nvml_handle(pynvml, index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        capability = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        runtime = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        return Budget(
            name=_text(pynvml.nvmlDeviceGetName(handle)),
            device="cuda",
            total_bytes=memory.total,
            free_bytes=memory.free,
            driver=_text(pynvml.nvmlSystemGetDriverVersion()),
            runtime=f"CUDA {runtime // 1000}.{runtime % 1000 // 10}",
            processes=_nvml_processes(pynvml, handle),
            family=family_of((capability[0], capability[1])),
        )
    except (pynvml.NVMLError, IndexError):
        return None
    finally:
        pynvml.nvmlShutdown()


def _nvml_handle(nvml: Any, index: int) -> Any:
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


def _nvml_processes(nvml: Any, handle: Any) -> tuple[Process, ...]:
    found: dict[int, Process] = {}
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            for entry in ask(handle):
                if entry.pid != os.getpid():
                    found[entry.pid] = Process(
                        entry.pid, _process_name(nvml, entry.pid), entry.usedGpuMemory or 0
                    )
        except nvml.NVMLError:
            continue
    return tuple(found.values())


def _process_name(nvml: Any, pid: int) -> str:
    try:
        return Path(_text(nvml.nvmlSystemGetProcessName(pid))).name or "?"
    except nvml.NVMLError:
        return "?"


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _nvidia_smi(index: int) -> Budget | None:
    """Ask the command line tool, for machines with a driver and without nvidia-ml-py."""
    fields = "name,memory.total,memory.free,driver_version,compute_cap"
    text = _output(["nvidia-smi", f"--id={index}", f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    parts = [part.strip() for part in (text or "").partition("\n")[0].split(",")]
    if len(parts) != 5 or not parts[1].isdigit() or not parts[2].isdigit():
        return None
    major, _, minor = parts[4].partition(".")
    family = family_of((int(major), int(minor or 0))) if major.isdigit() else UNKNOWN
    return Budget(parts[0], "cuda", int(parts[1]) << 20, int(parts[2]) << 20, driver=parts[3], family=family)


def _amd(index: int) -> Budget | None:
    """Ask amdsmi when it is installed, else rocm-smi, else return None."""
    text = _output(
        [
            "rocm-smi",
            "-d",
            str(index),
            "--showmeminfo",
            "vram",
            "--showproductname",
            "--showdriverversion",
            "--json",
        ]
    )
    try:
        tree = json.loads(text) if text else {}
    except ValueError:
        return None
    card = tree.get(f"card{index}", {})
    total, used = card.get("VRAM Total Memory (B)"), card.get("VRAM Total Used Memory (B)")
    if not total:
        return None
    name = card.get("Card Series") or card.get("Card Model") or "AMD GPU"
    driver = tree.get("system", {}).get("Driver version")
    return Budget(
        name,
        "rocm",
        int(total),
        int(total) - int(used or 0),
        driver=driver,
        runtime=_rocm_version(),
        family=CDNA,
    )


def _rocm_version() -> str | None:
    version = torch_build().get("hip")
    return f"ROCm {version}" if version else None


def _output(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


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
