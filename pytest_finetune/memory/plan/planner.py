"""Ask for figures: from the store when they are there, else from a tracing process: torch stays out of this one."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.errors import lacking
from pytest_finetune.fingerprint import Key, package_versions, sha256_hex
from pytest_finetune.memory.hardware.cards import FAMILIES
from pytest_finetune.memory.plan.figures import Figures, NotPlannedError, PlanError
from pytest_finetune.memory.plan.weights import Files
from pytest_finetune.memory.plan.workload import Workload
from pytest_finetune.wording import last_words

if TYPE_CHECKING:
    from pytest_finetune.store import Store
    from pytest_finetune.yamlfile import Json

SCHEMA: Final = 2
PACKAGES: Final = ("torch", "transformers", "peft", "trl", "bitsandbytes")
WORKSPACES: Final = tuple(sorted({family.cublas_bytes for family in FAMILIES.values()}))
TIMEOUT_S: Final = 600
_FILE: Final = "figures.json"
_TROUBLE: Final = "trouble.txt"


class Limit(NamedTuple):
    """What a ladder of changes is climbed for: a step that survives in `bytes` with workspaces of that size."""

    workspace: int
    bytes: int


Answer = Figures | PlanError | None


class WeightsError(PlanError):
    """The base's files are not the model of their `config.json`."""


class Planner:
    """Figures for workloads, each traced once; without a store they are kept for this process only."""

    def __init__(self, store: Store | None) -> None:
        self.store = store
        self._known: dict[str, Figures] = {}

    def climb(
        self,
        ladders: Sequence[Sequence[Workload]],
        limit: Limit | None = None,
        files: Files | None = None,
    ) -> list[list[Answer]]:
        """Return the figures of each ladder's rungs, from the mildest change to the strongest.

        With a limit, a rung that need not be traced to find the mildest that is enough may be None. What
        cannot be planned is a PlanError. The base's `files` are held against its model first, once for each base:
        WeightsError where they are another one. Everything is done in one process, since its imports cost more than a
        trace.
        """
        unseen = None if files is None or self._checked(files) else files
        keys = [[plan_key(workload) for workload in ladder] for ladder in ladders]
        answers: list[list[Answer]] = [[self._recall(key) for key in row] for row in keys]
        open_rows = [index for index, row in enumerate(answers) if not _settled(row, limit)]
        if open_rows or unseen:
            traced = self._traced([ladders[index] for index in open_rows], limit, unseen)
            for index, row in zip(open_rows, traced, strict=True):
                for rung, answer in enumerate(row):
                    if isinstance(answer, Figures):
                        self._keep(keys[index][rung], answer)
                    answers[index][rung] = answer if answer is not None else answers[index][rung]
        return answers

    def each(self, workloads: Sequence[Workload], files: Files | None = None) -> list[Figures]:
        """Return the figures of every workload; raises the first PlanError."""
        figures = []
        for (answer,) in self.climb([[workload] for workload in workloads], files=files):
            if not isinstance(answer, Figures):
                raise answer or NotPlannedError("the memory trace gave no answer")
            figures.append(answer)
        return figures

    def _traced(
        self, ladders: Sequence[Sequence[Workload]], limit: Limit | None, unseen: Files | None
    ) -> list[list[Answer]]:
        if unseen is None:
            return trace_elsewhere(ladders, limit)
        try:
            traced = trace_elsewhere(ladders, limit, unseen.folder)
        except WeightsError as error:
            self._commit(unseen.key, _TROUBLE, str(error))
            raise WeightsError(_of_base(unseen, str(error))) from None
        self._commit(unseen.key, _TROUBLE, "")
        return traced

    def _checked(self, files: Files) -> bool:
        """Tell whether the files were found to be their model before; WeightsError where they were not."""
        entry = None if self.store is None else self.store.read("plans", files.key)
        trouble = "" if entry is None else (entry.path / _TROUBLE).read_text(encoding="utf-8")
        if trouble:
            raise WeightsError(_of_base(files, trouble))
        return entry is not None

    def _recall(self, key: Key) -> Figures | None:
        if key.value not in self._known and self.store is not None:
            entry = self.store.read("plans", key)
            if entry is not None:
                tree = json.loads((entry.path / _FILE).read_text(encoding="utf-8"))
                self._known[key.value] = Figures.from_json(tree)
        return self._known.get(key.value)

    def _keep(self, key: Key, figures: Figures) -> None:
        self._known[key.value] = figures
        self._commit(key, _FILE, json.dumps(figures.as_json()))

    def _commit(self, key: Key, name: str, text: str) -> None:
        def write(folder: Path) -> None:
            (folder / name).write_text(text, encoding="utf-8")

        if self.store is not None:
            self.store.commit("plans", key, write)


def _of_base(files: Files, trouble: str) -> str:
    return f"base model: {files.base_model!r}: {trouble}"


def _settled(row: Sequence[Answer], limit: Limit | None) -> bool:
    """Tell whether what is known answers the ladder: all of it, or enough of it for the limit."""
    if None not in row:
        return True
    if limit is None or not isinstance(row[-1], Figures):
        return False
    if row[-1].with_workspace(limit.workspace).smallest > limit.bytes:
        return True
    for answer in row:
        if answer is None:
            return False
        if isinstance(answer, Figures) and answer.with_workspace(limit.workspace).smallest <= limit.bytes:
            return True
    return True


def plan_key(workload: Workload) -> Key:
    """Return the key of a plan.

    It hangs on the workload, the content of a step that is not ours, the libraries whose code is traced, and the
    version of the tracer.
    """
    return Key.of(
        {
            "schema": SCHEMA,
            "workload": {**workload.as_json(), "step": _step_name(workload.step)},
            "step": _step_digest(workload.step),
            "environment": package_versions(PACKAGES),
            "workspaces": list(WORKSPACES),
        }
    )


def _step_name(step: str) -> str:
    """Return a step's name without the folder of its file, which says nothing about it."""
    place, _, attribute = step.rpartition(":")
    return f"{Path(place).name}:{attribute}" if place.endswith(".py") else step


def _step_digest(step: str) -> str | None:
    """Return the digest of the file that defines a step; None for our own and for one that is not there."""
    place = step.rpartition(":")[0]
    if place.startswith("pytest_finetune."):
        return None
    file = Path(place)
    if not place.endswith(".py"):
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(place)
            file = Path(spec.origin) if spec and spec.origin else file
    return sha256_hex(file.read_bytes()) if file.is_file() else None


def trace_elsewhere(
    ladders: Sequence[Sequence[Workload]], limit: Limit | None, base: Path | None = None
) -> list[list[Answer]]:
    """Trace in a process of its own; PlanError when that process fails as a whole.

    The files in `base`, where it is given, are held against their model before: WeightsError where they are not it.
    """
    absent = lacking("torch", "transformers", "peft")
    if absent:
        raise PlanError(f"the memory trace needs {absent}")
    trees = [[workload.as_json() for workload in ladder] for ladder in ladders]
    request = {"base": base and str(base), "ladders": trees, "limit": limit, "workspaces": WORKSPACES}
    ours = all(workload.step.startswith("pytest_finetune.") for ladder in ladders for workload in ladder)
    # A step of a plugin imports what this process could import, from wherever pytest put it on the path.
    trouble, *rows = map(json.loads, _run_elsewhere(json.dumps(request), () if ours else sys.path))
    if trouble:
        raise WeightsError(trouble)
    return [[_read(tree) for tree in row] for row in rows]


def _run_elsewhere(request: str, path: Sequence[str]) -> list[str]:
    """Give a request to a tracing process, and return the lines that it wrote. Raises NotPlannedError."""
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    package_root = str(Path(__file__).resolve().parents[3])
    paths = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"), *path)))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_finetune.memory.tracer.ladders"],
            input=request,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            env={**os.environ, **quiet, "PYTHONPATH": paths},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotPlannedError(f"the memory trace did not end within {TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise NotPlannedError(f"the memory trace failed: {last_words(done.stderr)}")
    return done.stdout.splitlines()


def _read(tree: Json | None) -> Answer:
    if tree is None:
        return None
    if "untraced" in tree:
        return NotPlannedError(tree["untraced"])
    return PlanError(tree["error"]) if "error" in tree else Figures.from_json(tree["figures"])
