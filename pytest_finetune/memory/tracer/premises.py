"""What the trace needs of the libraries, looked at before it begins: a release may change it without a word.

Each premise is a short question. Where one does not hold, the plan says which library in which version does not do what
the trace needs, and nothing is planned.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pytest_finetune.fingerprint import ABSENT, installed_version, package_versions
from pytest_finetune.memory.plan.figures import NotPlannedError
from pytest_finetune.memory.plan.workload import TRL_STEP, Workload
from pytest_finetune.memory.tracer.events import Born, Died
from pytest_finetune.memory.tracer.recorder import Kernels, Recorder
from pytest_finetune.wording import one_line

LIBRARIES: Final = ("torch", "transformers", "peft", "trl", "bitsandbytes")


class Premise(NamedTuple):
    """What the trace needs of a library, in words, and whether the installed one does it."""

    library: str
    needs: str
    holds: Callable[[], bool]


def check(workload: Workload) -> None:
    """Raise NotPlannedError for the first premise of a workload that does not hold."""
    for premise in premises_of(workload):
        because = _broken(premise)
        if because is not None:
            version = installed_version(premise.library)
            raise NotPlannedError(
                f"{premise.library} {version} does not do what the memory trace needs: {premise.needs}{because}"
            )


def premises_of(workload: Workload) -> list[Premise]:
    """Return what the trace of a workload needs."""
    wanted = [*TORCH, *TRANSFORMERS]
    if workload.step == TRL_STEP:
        wanted += TRL
    if workload.adapter is not None and workload.adapter.dora:
        wanted += DORA
    if workload.quantization != "none":
        wanted += BITSANDBYTES[workload.quantization]
    return wanted


def untraced(error: Exception) -> str:
    """Say that a library stopped the trace, in its own words and with the versions that met."""
    versions = package_versions(LIBRARIES)
    met = ", ".join(f"{name} {version}" for name, version in versions.items() if version != ABSENT)
    return f"the step could not be traced: {type(error).__name__}: {one_line(error, 300)} ({met})"


@functools.cache
def _broken(premise: Premise) -> str | None:
    """Ask once a process; return what went wrong (nothing to add: an empty text), None where the premise holds."""
    try:
        return None if premise.holds() else ""
    except Exception as error:
        return f" ({type(error).__name__}: {one_line(error, 200)})"


def _storages_are_seen() -> bool:
    """A product of fake tensors: one birth of its bytes under its own name, one death with the last reference."""
    recorder = Recorder(vocabulary=frozenset(), kernels=Kernels({}, {}))
    with FakeTensorMode(allow_non_fake_inputs=True):
        left, right = torch.empty(4, 8), torch.empty(8, 4)
        with recorder:
            product = left @ right
            view = product.view(16)
            del product
            alive = [event for event in recorder.events if isinstance(event, Died)]
            del view
    births = [(event.bytes, event.op) for event in recorder.events if isinstance(event, Born)]
    return births == [(64, "aten::mm")] and not alive and isinstance(recorder.events[-1], Died)


def _gradients_are_seen() -> bool:
    seen: list[int] = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        weight = torch.nn.Parameter(torch.empty(4, 4))
        weight.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            lambda leaf: seen.append(-1 if leaf.grad is None else leaf.grad.numel())
        )
        (torch.empty(2, 4) @ weight).sum().backward()  # type: ignore[no-untyped-call]
    return seen == [16]


def _has(module: str, *names: str) -> Callable[[], bool]:
    def there() -> bool:
        found = importlib.import_module(module)
        return all(_reached(found, name) is not None for name in names)

    return there


def _reached(place: object, dotted: str) -> object:
    for name in dotted.split("."):
        place = getattr(place, name, None)
    return place


def _takes(module: str, function: str, *parameters: str) -> Callable[[], bool]:
    def takes() -> bool:
        called: Any = _reached(importlib.import_module(module), function)
        return list(inspect.signature(called).parameters)[: len(parameters)] == list(parameters)

    return takes


def _operator(name: str, places: Mapping[int, str]) -> Callable[[], bool]:
    """Ask whether an operator of bitsandbytes has these arguments at these places."""

    def known() -> bool:
        importlib.import_module("bitsandbytes")
        arguments = getattr(torch.ops.bitsandbytes, name).default._schema.arguments
        return all(len(arguments) > at and arguments[at].name == word for at, word in places.items())

    return known


TORCH: Final = (
    Premise("torch", "every storage of a fake tensor is born and dies in sight", _storages_are_seen),
    Premise("torch", "a gradient is seen as soon as it is there", _gradients_are_seen),
)
TRANSFORMERS: Final = (
    Premise(
        "transformers", "attention kernels can be added", _has("transformers", "AttentionInterface.register")
    ),
    Premise(
        "transformers",
        "attention masks can be added",
        _has("transformers.masking_utils", "AttentionMaskInterface.register"),
    ),
)
TRL: Final = (
    Premise(
        "trl",
        "its loss is computed in tiles by ChunkedLogProbFunction",
        _has("trl.kernels.chunked_logprob", "_forward_tile", "_backward_tile", "_addmm_fp32"),
    ),
    Premise(
        "trl",
        "ChunkedLogProbFunction takes hidden states, weight, bias and targets first",
        _takes(
            "trl.kernels.chunked_logprob",
            "ChunkedLogProbFunction.forward",
            "ctx",
            "hidden",
            "weight",
            "bias",
            "targets",
        ),
    ),
)
DORA: Final = (
    Premise(
        "peft",
        "DoRA reads weights by dequantize_module_weight",
        _has("peft.tuners.lora.dora", "dequantize_module_weight"),
    ),
)
BITSANDBYTES: Final[Mapping[str, tuple[Premise, ...]]] = {
    "nf4": (
        Premise(
            "bitsandbytes",
            "a 4-bit product names its shape and its scales",
            _operator("gemm_4bit", {2: "shapeB", 4: "blocksize"}),
        ),
    ),
    "int8": (
        Premise(
            "bitsandbytes", "8-bit values are made row by row", _operator("int8_vectorwise_quant", {0: "A"})
        ),
    ),
}
