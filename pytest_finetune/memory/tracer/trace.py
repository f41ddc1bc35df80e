"""Trace two optimizer steps of a workload on fake tensors: what lives when, as a timeline."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pytest_finetune.memory.plan.workload import Workload, text_config
from pytest_finetune.memory.tracer import kernels
from pytest_finetune.memory.tracer import model as models
from pytest_finetune.memory.tracer.events import Event
from pytest_finetune.memory.tracer.extend import (
    EDGE,
    OPTIMIZER,
    SHALLOW,
    ZERO,
    NotRepeatedError,
    OptimizerTrace,
    extend,
)
from pytest_finetune.memory.tracer.loading import load
from pytest_finetune.memory.tracer.optimizers import Optimizer, clip_gradients, make_optimizer
from pytest_finetune.memory.tracer.recorder import Kernels, Recorder
from pytest_finetune.memory.tracer.shares import settled, share_of
from pytest_finetune.memory.tracer.steps import load_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEPS = 2


class Traced(NamedTuple):
    """The timeline of a workload, how many parameters it has and trains, and how deep a model was really run."""

    events: list[Event]
    parameters: int
    trainable: int
    layers: int


def trace(workload: Workload) -> Traced:
    """Return what lives when during two optimizer steps; few layers are run and extended when all are alike."""
    traced = _traced(workload)
    return traced._replace(events=settled(traced.events)) if workload.ranks > 1 else traced


def _traced(workload: Workload) -> Traced:
    depth = workload.depth
    if depth > SHALLOW and models.is_uniform(workload):
        with contextlib.suppress(NotRepeatedError):
            return _extended(workload, depth)
    return trace_fully(workload)


def trace_fully(workload: Workload, *, fake: bool = True, cuda: bool = True) -> Traced:
    """Run the two steps on all layers.

    The trace itself is checked with ``fake=False``, on real tensors, and with ``cuda=False``, without what CUDA's
    kernels would take.
    """
    run = _Run(workload, fake=fake, cuda=cuda)
    return Traced(run.events, run.parameters, run.trainable, workload.depth)


def _extended(workload: Workload, depth: int) -> Traced:
    run = _Run(workload.changed(layers=SHALLOW), steps=1)
    events = extend(run.events, SHALLOW, depth, run.optimizer_over(depth), steps=STEPS)
    more = depth - SHALLOW
    parameters = run.parameters + more * run.inner_parameters
    return Traced(events, parameters, run.trainable + more * run.inner_trainable, SHALLOW)


class _Run:
    """One run of the step; what it recorded stands in `events` afterwards."""

    def __init__(
        self, workload: Workload, *, steps: int = STEPS, fake: bool = True, cuda: bool = True
    ) -> None:
        self._workload = workload
        self._number_of_steps = steps
        self._step = load_step(workload.step)
        self._cublas = kernels.CublasWorkspaces()
        taken = kernels.cuda_kernels(self._cublas) if cuda else Kernels({}, {})
        self.recorder = Recorder(vocabulary=_vocabulary(workload), kernels=taken)
        self._gradients: list[int] = []
        kernels.register_attention(lambda: self.recorder)
        model = models.build(workload, self._step.prepare)
        with contextlib.ExitStack() as stack:
            if fake:
                stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            stack.enter_context(self._step.session())
            models.materialise(model)
            self._named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            load(workload, model, self.recorder)
            stack.enter_context(_hooks(model, self.recorder, workload.ranks))
            with self.recorder, kernels.CudaSemantics() if cuda else contextlib.nullcontext():
                self._steps(model)
            # A copy: the model is collected at some later time, and its death is no event of the step.
            self.events = list(self.recorder.events)
            self._count(model)

    def _count(self, model: PreTrainedModel) -> None:
        sizes = [
            (models.layer_of(name), _logical(p), p.requires_grad) for name, p in model.named_parameters()
        ]
        self.parameters = sum(size for _, size, _ in sizes)
        self.trainable = sum(size for _, size, trains in sizes if trains)
        self.inner_parameters = sum(size for layer, size, _ in sizes if layer == EDGE)
        self.inner_trainable = sum(size for layer, size, trains in sizes if layer == EDGE and trains)

    def _steps(self, model: PreTrainedModel) -> None:
        parameters = [parameter for _, parameter in self._named]
        workload = self._workload
        self._optimizer = optimizer = make_optimizer(workload.optimizer, parameters, workload.ranks)
        self.recorder.enter("inputs")
        self.recorder.part = "inputs"
        self._batch = batch = self._step.batch(self._workload)
        for _ in range(self._number_of_steps):
            held: object = None
            for _ in range(min(self._workload.accumulation, 2)):
                held = self._forward_backward(model, batch)
            self._gradients = [self._number_of_gradient(p) for p in parameters]
            self.recorder.enter(OPTIMIZER)
            self.recorder.part, self._cublas.thread = "optimizer", "forward"
            _update(self._workload.max_grad_norm, optimizer, parameters, self.recorder)
            self.recorder.enter("release")
            del held
            self.recorder.enter(ZERO)
            for parameter in parameters:
                parameter.grad = None
        self.recorder.enter("end")

    def _number_of_gradient(self, parameter: torch.nn.Parameter) -> int:
        """Return the number of a gradient's storage; 0 for a parameter that the step never reaches."""
        return 0 if parameter.grad is None else self.recorder.number_of(parameter.grad) or 0

    def _forward_backward(self, model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> object:
        """Run one micro-batch; return what the caller's step keeps."""
        self.recorder.enter("forward")
        self.recorder.part, self._cublas.thread = "activations", "forward"
        if self._workload.rotary_product:
            self._cublas.take(self.recorder)
        with _autocast(self._workload):
            loss, held = self._step.loss(model, batch)
        kept = held if self._workload.keeps_output else None
        del held
        self.recorder.enter("backward")
        self.recorder.part, self._cublas.thread = "temporaries", "backward"
        loss.backward()  # type: ignore[no-untyped-call]
        return kept

    def optimizer_over(self, depth: int) -> OptimizerTrace:
        """Trace one step of the optimizer alone, over the parameters of a model of `depth` layers."""
        if 0 in self._gradients:
            raise NotRepeatedError("the step leaves some parameters out")
        layers = [models.layer_of(name) for name, _ in self._named]
        shapes = tuple((tuple(p.shape), p.dtype) for p in self._in_order(layers, depth))
        workload = self._workload
        first = _first_update(workload.optimizer, workload.max_grad_norm, shapes, workload.ranks)
        return OptimizerTrace(first, self._gradients, layers)

    def _in_order(self, layers: list[int | None], depth: int) -> Iterator[torch.Tensor]:
        """Yield the trainable parameters of the deeper model, those of the inner layer once a layer."""
        grouped = itertools.groupby(zip(layers, self._named, strict=True), key=lambda pair: pair[0])
        for layer, pairs in grouped:
            group = [parameter for _, (_, parameter) in pairs]
            copies = depth - 2 * EDGE if layer == EDGE else 0 if layer == EDGE + 1 else 1
            yield from group * copies


@functools.lru_cache(maxsize=4)
def _first_update(
    name: str, max_grad_norm: float, shapes: tuple[tuple[tuple[int, ...], torch.dtype], ...], ranks: int
) -> list[Event]:
    with torch.device("meta"):
        parameters = [torch.nn.Parameter(torch.empty(shape, dtype=dtype)) for shape, dtype in shapes]
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
    recorder = Recorder(vocabulary=frozenset(), kernels=Kernels({}, {}))
    _update(max_grad_norm, make_optimizer(name, parameters, ranks), parameters, recorder)
    return recorder.events


def _update(
    max_grad_norm: float, optimizer: Optimizer, parameters: list[torch.nn.Parameter], recorder: Recorder
) -> None:
    """Clip and step, as the trainer does between the backward and the next batch."""
    if max_grad_norm > 0:
        clip_gradients(parameters, recorder)
    optimizer.step(recorder)


def _autocast(workload: Workload) -> contextlib.AbstractContextManager[object]:
    if workload.autocast is None:
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=getattr(torch, workload.autocast))


@contextlib.contextmanager
def _hooks(model: PreTrainedModel, recorder: Recorder, ranks: int) -> Iterator[None]:
    """Mark the layers as they are entered, forward and backward, and name gradients as what they are."""

    def share(leaf: torch.Tensor) -> int | None:
        return share_of(leaf, ranks) if ranks > 1 else None

    handles = []
    layers = models.repeated_layers(model)
    for index, layer in enumerate(layers):

        def entered(module: torch.nn.Module, args: object, index: int = index) -> None:
            recorder.enter("backward" if recorder.part == "temporaries" else "forward", index)

        def left(module: torch.nn.Module, args: object, output: Any, index: int = index) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if recorder.part != "temporaries" and index == len(layers) - 1:
                recorder.enter("forward", None)
            if tensor.requires_grad:
                tensor.register_hook(lambda grad, index=index: recorder.enter("backward", index))

        handles += [layer.register_forward_pre_hook(entered), layer.register_forward_hook(left)]
    for parameter in model.parameters():
        if parameter.requires_grad:
            handles.append(
                parameter.register_post_accumulate_grad_hook(
                    lambda leaf: recorder.becomes(leaf.grad, "gradients", share(leaf))
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
