"""AMD's cards: through amdsmi, else through rocm-smi."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from pytest_finetune.memory.hardware.budget import Budget, Process
from pytest_finetune.memory.hardware.cards import CDNA
from pytest_finetune.memory.hardware.drivers import output


def card(index: int, rocm: str | None = None) -> Budget | None:
    """Return the card with this index, or None when there is none; `rocm` is the version that torch was built for."""
    runtime = f"ROCm {rocm}" if rocm else None
    try:
        import amdsmi  # type: ignore[import-not-found, unused-ignore]
    except (ImportError, OSError, KeyError):  # its loader looks for the driver's library
        return _from_tool(index, runtime)
    try:
        with _session(amdsmi):
            return _from_library(amdsmi, amdsmi.amdsmi_get_processor_handles()[index], runtime)
    except (amdsmi.AmdSmiException, IndexError):
        return _from_tool(index, runtime)


@contextmanager
def _session(amdsmi: ModuleType) -> Iterator[None]:
    amdsmi.amdsmi_init()
    try:
        yield
    finally:
        amdsmi.amdsmi_shut_down()


def _from_library(amdsmi: ModuleType, handle: object, runtime: str | None) -> Budget:
    vram = amdsmi.AmdSmiMemoryType.VRAM
    total = int(amdsmi.amdsmi_get_gpu_memory_total(handle, vram))
    free = total - int(amdsmi.amdsmi_get_gpu_memory_usage(handle, vram))
    processes = {process.pid: process for process in _processes(amdsmi, handle)}
    own = processes.pop(os.getpid(), None)
    return Budget(
        name=str(amdsmi.amdsmi_get_gpu_asic_info(handle).get("market_name") or "AMD GPU"),
        device="rocm",
        total_bytes=total,
        free_bytes=free + (own.bytes if own else 0),
        driver=str(amdsmi.amdsmi_get_gpu_driver_info(handle).get("driver_version") or "") or None,
        runtime=runtime,
        processes=tuple(processes.values()),
        family=CDNA,
    )


def _processes(amdsmi: ModuleType, handle: object) -> Iterator[Process]:
    try:
        entries = amdsmi.amdsmi_get_gpu_process_list(handle)
    except amdsmi.AmdSmiException:
        return
    for entry in entries:
        held = entry.get("memory_usage", {}).get("vram_mem", entry.get("mem", 0))
        name = str(entry.get("name") or "?")
        yield Process(int(entry["pid"]), "?" if name == "N/A" else name, held if isinstance(held, int) else 0)


def _from_tool(index: int, runtime: str | None) -> Budget | None:
    shown = ("--showmeminfo", "vram", "--showproductname", "--showdriverversion")
    text = output(["rocm-smi", "-d", str(index), *shown, "--json"])
    try:
        tree = json.loads(text) if text else {}
    except ValueError:
        return None
    found = tree.get(f"card{index}", {})
    total, used = found.get("VRAM Total Memory (B)"), found.get("VRAM Total Used Memory (B)")
    if not total:
        return None
    name = found.get("Card Series") or found.get("Card Model") or "AMD GPU"
    driver = tree.get("system", {}).get("Driver version")
    free = int(total) - int(used or 0)
    return Budget(name, "rocm", int(total), free, driver=driver, runtime=runtime, family=CDNA)
