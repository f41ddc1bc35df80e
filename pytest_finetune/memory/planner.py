"""Ask for figures: from the store when they are there, else from a tracing process.

Torch stays out of this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.fingerprint import Key, package_versions
from pytest_finetune.memory.cards import FAMILIES
from pytest_finetune.memory.figures import Figures, PlanError
from pytest_finetune.memory.workload import Workload

if TYPE_CHECKING:
    from pytest_finetune.store import Store

SCHEMA: Final = 1
PACKAGES: Final = ("torch", "transformers", "peft", "trl", "bitsandbytes")
WORKSPACES: Final = tuple(sorted({family.cublas_bytes for family in FAMILIES.values()}))
TIMEOUT_S: Final = 600
_FILE: Final = "figures.json"


class Planner:
    """Figures for workloads, each traced once; without a store they are kept for this process only."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._known: dict[str, Figures] = {}

    def figures(self, workloads: Sequence[Workload]) -> list[Figures | PlanError]:
        """Return figures in the order asked for; a workload that cannot be planned gives its PlanError.

        Whatever is not known is traced together in one process, since its imports cost more than a trace.
        """
        keys = [plan_key(workload) for workload in workloads]
        missing: dict[str, tuple[Key, Workload]] = {}
        for key, workload in zip(keys, workloads, strict=True):
            if key.value not in self._known and not self._recall(key):
                missing[key.value] = (key, workload)
        errors: dict[str, PlanError] = {}
        if missing:
            answers = trace_elsewhere([workload for _, workload in missing.values()])
            for (key, _), answer in zip(missing.values(), answers, strict=True):
                if isinstance(answer, PlanError):
                    errors[key.value] = answer
                else:
                    self._keep(key, answer)
        return [errors.get(key.value) or self._known[key.value] for key in keys]

    def one(self, workload: Workload) -> Figures:
        """Return the figures of one workload; raises its PlanError."""
        (answer,) = self.figures([workload])
        if isinstance(answer, PlanError):
            raise answer
        return answer

    def _recall(self, key: Key) -> bool:
        entry = self._store.read("plans", key) if self._store is not None else None
        if entry is None:
            return False
        tree = json.loads((entry.path / _FILE).read_text(encoding="utf-8"))
        self._known[key.value] = Figures.from_json(tree)
        return True

    def _keep(self, key: Key, figures: Figures) -> None:
        self._known[key.value] = figures
        if self._store is not None:
            text = json.dumps(figures.as_json())

            def write(folder: Path) -> None:
                (folder / _FILE).write_text(text, encoding="utf-8")

            self._store.commit("plans", key, write)


def plan_key(workload: Workload) -> Key:
    """Return the key of a plan.

    The workload, the libraries whose code is traced, and the version of the tracer.
    """
    return Key.of(
        {
            "schema": SCHEMA,
            "workload": workload.as_json(),
            "environment": package_versions(PACKAGES),
            "workspaces": list(WORKSPACES),
        }
    )


def trace_elsewhere(workloads: Sequence[Workload]) -> list[Figures | PlanError]:
    """Trace in a process of its own; PlanError when that process fails as a whole."""
    request = {"workloads": [workload.as_json() for workload in workloads], "workspaces": WORKSPACES}
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    package_root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_finetune.memory.trace"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            env={**os.environ, **quiet, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PlanError(f"the memory trace did not end within {TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise PlanError(f"the memory trace failed: {_last_words(done.stderr)}")
    return [_read(line) for line in done.stdout.splitlines()]


def _read(line: str) -> Figures | PlanError:
    tree = json.loads(line)
    return PlanError(tree["error"]) if "error" in tree else Figures.from_json(tree["figures"])


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"
