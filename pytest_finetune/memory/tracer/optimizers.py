"""What an optimizer keeps and takes on the card, by its name in `TrainingArguments.optim`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final, Protocol

import torch

from pytest_finetune.memory.plan.figures import PlanError
from pytest_finetune.memory.tracer.recorder import Recorder

_BLOCK: Final = 256
_SMALL: Final = 4096


class Optimizer(Protocol):
    """One optimizer step over the trainable parameters, whose gradients are there."""

    def step(self, recorder: Recorder) -> None:
        """Create the state at the first call, and update."""


class TorchOptimizer:
    """One of torch's own optimizers, run for real on the traced tensors.

    On CUDA the multi-tensor implementation is the default, whose lists of temporaries are as large as the
    parameters; a CPU would loop. Its step counters stay on the host.
    """

    def __init__(self, kind: str, parameters: list[torch.nn.Parameter]) -> None:
        rate = 1e-4
        self._inner: torch.optim.Optimizer
        if kind == "sgd":
            self._inner = torch.optim.SGD(parameters, lr=rate, foreach=True)
        elif kind == "adamw_torch_fused":
            self._inner = torch.optim.AdamW(parameters, lr=rate, fused=True)
        else:
            self._inner = torch.optim.AdamW(parameters, lr=rate, foreach=True)

    def step(self, recorder: Recorder) -> None:
        """Run torch's step."""
        self._inner.step()


class StateOnly:
    """An optimizer that cannot run here: its state is `bytes_of` each parameter, made at the first step and kept."""

    def __init__(self, name: str, parameters: list[torch.nn.Parameter], states: int, *, paged: bool) -> None:
        self._name, self._parameters, self._states, self._paged = name, parameters, states, paged
        self._made = False

    def step(self, recorder: Recorder) -> None:
        """Make the state once: 8-bit values with a float32 scale for 256 of them, float32 for small tensors.

        Paged state lies in unified memory, which the driver moves out under pressure: it is not counted.
        """
        if self._made or self._paged:
            return
        self._made = True
        for parameter in self._parameters:
            count = parameter.numel()
            for _ in range(self._states):
                if count < _SMALL:
                    recorder.held(count * 4, self._name, "optimizer")
                else:
                    recorder.held(count, self._name, "optimizer")
                    recorder.held(-(-count // _BLOCK) * 4, self._name, "optimizer")


_TORCH: Final = {
    "adamw_torch": "adamw_torch",
    "adamw_torch_fused": "adamw_torch_fused",
    "adamw_hf": "adamw_torch",
    "sgd": "sgd",
}
_BITS8: Final = {
    "adamw_8bit": (2, False),
    "adamw_bnb_8bit": (2, False),
    "paged_adamw_8bit": (2, True),
    "paged_adamw_32bit": (2, True),
    "paged_adamw": (2, True),
    "lion_8bit": (1, False),
    "paged_lion_8bit": (1, True),
    "paged_lion_32bit": (1, True),
}
KNOWN: Final = (*_TORCH, *_BITS8)


def make_optimizer(name: str, parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """Return the optimizer with this name; PlanError names the ones that can be planned."""
    trainable = list(parameters)
    if name in _TORCH:
        return TorchOptimizer(_TORCH[name], trainable)
    if name in _BITS8:
        states, paged = _BITS8[name]
        return StateOnly(name, trainable, states, paged=paged)
    near = difflib.get_close_matches(name, KNOWN, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    raise PlanError(f"the optimizer {name!r} cannot be planned{guess} Known are {', '.join(KNOWN)}")


def clip_gradients(parameters: Iterable[torch.nn.Parameter], max_norm: float) -> None:
    """Clip as the Trainer does before it steps: a norm for each gradient, then one factor for all, in place.

    The operators are those of `torch.nn.utils.clip_grad_norm_` on CUDA, which refuses to run them on meta tensors.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch._foreach_norm(gradients, 2.0)
    total = torch.linalg.vector_norm(torch.stack(norms), 2.0)
    factor = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    torch._foreach_mul_(gradients, factor)
