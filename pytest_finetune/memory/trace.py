"""Trace two optimizer steps of a workload on fake tensors.

``python -m pytest_finetune.memory.trace < requests.json``.

It runs in a process of its own, because the libraries take seconds and half a gigabyte that a test session
should not carry, and because what it patches must not leak.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pytest_finetune.memory import kernels
from pytest_finetune.memory import model as models
from pytest_finetune.memory.allocator import replay, smallest_budget
from pytest_finetune.memory.events import Born, Event, live_peak, with_workspaces
from pytest_finetune.memory.figures import Figures, Held, PlanError
from pytest_finetune.memory.optimizers import clip_gradients, make_optimizer
from pytest_finetune.memory.recorder import Recorder
from pytest_finetune.memory.steps import Step, load_step
from pytest_finetune.memory.workload import Workload, text_config

STEPS = 2


class Traced(NamedTuple):
    """The timeline of a workload, and how many parameters it has and trains."""

    events: list[Event]
    parameters: int
    trainable: int


def trace(workload: Workload, *, fake: bool = True) -> Traced:
    """Build the model, run two optimizer steps, return what lived when.

    With ``fake=False`` the same step runs on real CPU tensors, which is how the trace itself is checked.
    """
    step = load_step(workload.step)
    cublas = kernels.CublasWorkspaces()
    recorder = Recorder(vocabulary=_vocabulary(workload), workspaces=kernels.cuda_workspaces(cublas))
    kernels.register_attention(lambda: recorder)
    model = models.build(workload)
    with contextlib.ExitStack() as stack:
        if fake:
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(step.session())
        models.materialise(model)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for tensor, part in models.residents(model):
            recorder.add(tensor, part, "load")
        stack.enter_context(_hooks(model, recorder))
        with recorder, kernels.CudaSemantics():
            _run(workload, step, model, parameters, recorder, cublas)
        counted = sum(_logical(parameter) for parameter in model.parameters())
        events = list(recorder.events)
    return Traced(events, counted, sum(parameter.numel() for parameter in parameters))


def _run(
    workload: Workload,
    step: Step,
    model: Any,
    parameters: list[torch.nn.Parameter],
    recorder: Recorder,
    cublas: kernels.CublasWorkspaces,
) -> None:
    optimizer = make_optimizer(workload.optimizer, parameters)
    recorder.part = "inputs"
    batch = step.batch(workload)
    for _ in range(STEPS):
        held: object = None
        for _ in range(min(workload.accumulation, 2)):
            held = _forward_backward(workload, step, model, batch, recorder, cublas)
        recorder.enter("optimizer")
        recorder.part, cublas.thread = "optimizer", "forward"
        if workload.max_grad_norm > 0:
            clip_gradients(parameters, workload.max_grad_norm)
        optimizer.step(recorder)
        del held
        for parameter in parameters:
            parameter.grad = None
    recorder.enter("end")


def _forward_backward(
    workload: Workload,
    step: Step,
    model: Any,
    batch: dict[str, torch.Tensor],
    recorder: Recorder,
    cublas: kernels.CublasWorkspaces,
) -> object:
    """Run one micro-batch; return what the caller's step keeps."""
    recorder.enter("forward")
    recorder.part, cublas.thread = "activations", "forward"
    with _autocast(workload):
        loss, held = step.loss(model, batch)
    kept = held if workload.keeps_output else None
    del held
    recorder.enter("backward")
    recorder.part, cublas.thread = "temporaries", "backward"
    loss.backward()  # type: ignore[no-untyped-call]
    return kept


def _autocast(workload: Workload) -> contextlib.AbstractContextManager[Any]:
    if workload.autocast is None:
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=getattr(torch, workload.autocast))


@contextlib.contextmanager
def _hooks(model: Any, recorder: Recorder) -> Iterator[None]:
    """Mark the layers as they are entered, forward and backward, and name gradients as what they are."""
    handles = []
    for index, layer in enumerate(models.repeated_layers(model)):

        def entered(module: Any, args: Any, index: int = index) -> None:
            recorder.enter("backward" if recorder.part == "temporaries" else "forward", index)

        def left(module: Any, args: Any, output: Any, index: int = index) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if recorder.part == "temporaries":
                recorder.enter("backward", index)
            else:
                recorder.enter("forward", None)
            if tensor.requires_grad:
                tensor.register_hook(lambda grad, index=index: recorder.enter("backward", index))

        handles += [layer.register_forward_pre_hook(entered), layer.register_forward_hook(left)]
    for parameter in model.parameters():
        if parameter.requires_grad:
            handles.append(
                parameter.register_post_accumulate_grad_hook(
                    lambda leaf: recorder.becomes(leaf.grad, "gradients")
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _vocabulary(workload: Workload) -> frozenset[int]:
    text = text_config(workload.config)
    size = int(text.get("vocab_size", 0))
    return frozenset({size, 32768}) - {int(text.get("hidden_size", 0))}


def _logical(parameter: torch.nn.Parameter) -> int:
    """Count a packed weight as the values it stands for."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else parameter.numel()


def figures(workload: Workload, workspaces: Sequence[int]) -> Figures:
    """Trace a workload and replay its timeline, once for each size of a cuBLAS workspace."""
    traced = trace(workload)
    held = {}
    for size in workspaces:
        events = with_workspaces(traced.events, size)
        unpressed = replay(events, expandable=workload.expandable_segments)
        smallest = smallest_budget(events, expandable=workload.expandable_segments)
        held[size] = Held(unpressed.allocated, unpressed.reserved, smallest)
    peak = live_peak(with_workspaces(traced.events, max(workspaces)))
    resident = sum(event.bytes for event in traced.events if isinstance(event, Born) and event.op == "load")
    return Figures(
        held=held,
        parts=peak.parts,
        phase=peak.phase,
        layer=peak.layer,
        phases=peak.phases,
        parameters=traced.parameters,
        trainable=traced.trainable,
        resident=resident,
        traced_layers=workload.depth,
        layers=workload.depth,
    )


def main() -> int:
    """Read ``{"workloads": [...], "workspaces": [...]}`` from standard input, write one answer for each.

    Whatever the libraries print goes to standard error, so that standard output holds the answers alone.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    workloads = [Workload.from_json(tree) for tree in request["workloads"]]
    if not any(needs_bitsandbytes(workload) for workload in workloads):
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # PEFT imports it whenever it is there: a second
    for workload in workloads:
        try:
            answer: dict[str, Any] = {"figures": figures(workload, request["workspaces"]).as_json()}
        except PlanError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


def needs_bitsandbytes(workload: Workload) -> bool:
    """Tell whether the trace runs code of bitsandbytes; its optimizers are described, not run."""
    return workload.quantization != "none"


if __name__ == "__main__":
    sys.exit(main())
