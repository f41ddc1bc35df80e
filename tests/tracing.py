"""The tracing process's work done in this process, where torch is loaded once for all tests."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from pathlib import Path

from pytest_finetune.memory.plan import planner
from pytest_finetune.memory.plan.planner import WORKSPACES, Answer, Limit
from pytest_finetune.memory.plan.workload import Workload

_TRACED: dict[str, list[Answer]] = {}


def trace_here(
    ladders: Sequence[Sequence[Workload]], limit: Limit | None, base: Path | None = None
) -> list[list[Answer]]:
    """Take the place of `planner.trace_elsewhere`; a ladder that was climbed before is not climbed again.

    The files in `base` are taken for its model, as they are.
    """
    return [_climbed(ladder, limit) for ladder in ladders]


def _climbed(ladder: Sequence[Workload], limit: Limit | None) -> list[Answer]:
    from pytest_finetune.memory.tracer import ladders as tracing

    key = str(([planner.plan_key(workload).value for workload in ladder], limit))
    if key not in _TRACED:
        gc.disable()  # as the tracing process does: storages die by reference count alone
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trees = tracing.climb(ladder, WORKSPACES, limit)
        finally:
            gc.enable()
        _TRACED[key] = [planner._read(tree) for tree in trees]
    return _TRACED[key]
