"""Answer the planner from a process of its own: a base and ladders of workloads come in, what is wrong with the
base and the figures of the workloads go out.

``python -m pytest_finetune.memory.tracer.ladders < request.json``.

The libraries take seconds and half a gigabyte that a test session should not carry, and what is patched and left out of
them must not leak.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_finetune.memory.plan.figures import Figures, Held, NotPlannedError, PlanError
from pytest_finetune.memory.plan.workload import Workload
from pytest_finetune.memory.tracer import premises
from pytest_finetune.memory.tracer.allocator import replay, smallest_budget
from pytest_finetune.memory.tracer.events import LOADED, Born, Event, live_peak
from pytest_finetune.memory.tracer.lean import leave_out
from pytest_finetune.memory.tracer.trace import trace
from pytest_finetune.memory.tracer.variants import variants
from pytest_finetune.memory.tracer.weights import trouble_with
from pytest_finetune.yamlfile import JsonTree


def figures(workload: Workload, workspaces: Sequence[int]) -> Figures:
    """Trace a workload and replay its timeline, once for each size of a cuBLAS workspace.

    NotPlannedError names the library whose release does not do what the trace needs.
    """
    premises.check(workload)
    traced = trace(workload)
    held: dict[int, Held] = {}
    for size in workspaces:
        near = next(iter(held.values())).smallest if held else None
        held[size] = _held(workload, traced.events, size, near)
    peak = live_peak(variants(traced.events, workload.loading, max(workspaces))[0])
    resident = sum(event.bytes for event in traced.events if isinstance(event, Born) and event.op in LOADED)
    return Figures(
        held=held,
        parts=peak.parts,
        phase=peak.phase,
        layer=peak.layer,
        phases=peak.phases,
        parameters=traced.parameters,
        trainable=traced.trainable,
        resident=resident,
        traced_layers=traced.layers,
        layers=workload.depth,
    )


def _held(workload: Workload, events: Sequence[Event], workspace: int, near: int | None) -> Held:
    """Replay the variants of a timeline; of several the largest figures count."""
    expandable = workload.expandable_segments
    timelines = variants(events, workload.loading, workspace)
    replays = [replay(timeline, expandable=expandable) for timeline in timelines]
    return Held(
        max(held.allocated for held in replays),
        max(held.reserved for held in replays),
        max(
            smallest_budget(timeline, free, expandable=expandable, near=near)
            for timeline, free in zip(timelines, replays, strict=True)
        ),
    )


def main() -> int:
    """Read a base and ladders of workloads from standard input; write what is wrong with it, then the ladders' answers.

    Each is a line; a base whose files are not its model gets the first alone. A ladder is a list from the mildest to
    the strongest change; with a limit it is climbed only as far as needed, and what was not traced is null. Whatever
    the libraries print goes to standard error.
    """
    gc.disable()  # before the next trace is early enough, and storages then die by reference count alone
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    ladders = [[Workload.from_json(tree) for tree in ladder] for ladder in request["ladders"]]
    leave_out(bitsandbytes=any(needs_bitsandbytes(workload) for ladder in ladders for workload in ladder))
    trouble = trouble_with(Path(request["base"])) if request["base"] else ""
    print(json.dumps(trouble), file=answers, flush=True)
    for nth, ladder in enumerate(() if trouble else ladders):
        if nth:
            gc.collect()
        print(json.dumps(climb(ladder, request["workspaces"], request["limit"])), file=answers, flush=True)
    return 0


def climb(
    ladder: Sequence[Workload], workspaces: Sequence[int], limit: Sequence[int] | None
) -> list[JsonTree | None]:
    """Trace the strongest change; if it is enough, look for the mildest that is. `limit` is (workspace, bytes)."""
    found: list[JsonTree | None] = [None] * len(ladder)
    order = range(len(ladder)) if limit is None else [len(ladder) - 1, *range(len(ladder) - 1)]
    for nth, index in enumerate(order):
        if nth:
            gc.collect()
        try:
            traced = figures(ladder[index], workspaces)
            found[index] = {"figures": traced.as_json()}
            enough = limit is not None and traced.with_workspace(limit[0]).smallest <= limit[1]
        except NotPlannedError as error:
            found[index] = {"untraced": str(error)}
            enough = False
        except PlanError as error:
            found[index] = {"error": str(error)}
            enough = False
        except Exception as error:
            # One workload must not take the others with it; what the library said is the answer.
            found[index] = {"untraced": premises.untraced(error)}
            enough = False
        strongest = index == len(ladder) - 1
        if limit is not None and enough != strongest:
            break
    return found


def needs_bitsandbytes(workload: Workload) -> bool:
    """Tell whether the trace runs code of bitsandbytes; its optimizers are described, not run."""
    return workload.quantization != "none"


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # taking the libraries down in good order would take another second
