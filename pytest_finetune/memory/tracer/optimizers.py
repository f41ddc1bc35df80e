"""What an optimizer keeps and takes on the card, by its name in `TrainingArguments.optim`.

Nothing of torch's optimizers runs here: what they allocate follows from the shapes of the parameters, and a release of
torch may change how they compute without changing that. A test holds it against the installed torch's own step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

import torch

from pytest_finetune.memory.plan.figures import PlanError
from pytest_finetune.memory.tracer.recorder import Recorder
from pytest_finetune.memory.tracer.shares import share_of
from pytest_finetune.wording import nearest

PART: Final = "optimizer"
_BLOCK: Final = 256
_SMALL: Final = 4096
_COUNTER: Final = 4  # bytes of a float32 scalar


class Optimizer(Protocol):
    """One optimizer step over the trainable parameters, whose gradients are there."""

    def step(self, recorder: Recorder) -> None:
        """Create the state at the first call, and update."""


class AdamW:
    """torch's AdamW: two moments for each parameter, kept in its dtype.

    The multi-tensor implementation, the default on CUDA, takes the roots of all second moments at once, and counts its
    steps on the host. The fused one needs no roots, and counts on the card.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], *, fused: bool, ranks: int = 1) -> None:
        self._parameters, self._fused, self._ranks = parameters, fused, ranks
        self._made: set[int] = set()

    def step(self, recorder: Recorder) -> None:
        """Make the state of the parameters that have a gradient for the first time, and take the roots."""
        sizes = [self._state(parameter, recorder) for parameter in _with_gradient(self._parameters)]
        if self._fused:
            return
        for root in [recorder.held(size, "roots", PART) for size in sizes]:
            recorder.release(root)

    def _state(self, parameter: torch.nn.Parameter, recorder: Recorder) -> int:
        """Make the state of a parameter once; return the bytes of one moment."""
        size = share_of(parameter, self._ranks)
        if id(parameter) not in self._made:
            self._made.add(id(parameter))
            for kept in (*((_COUNTER,) if self._fused else ()), size, size):
                recorder.held(kept, "adamw", PART)
        return size


class Sgd:
    """torch's SGD without momentum: it keeps nothing, and works in place."""

    def step(self, recorder: Recorder) -> None:
        """Take nothing."""


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


_ADAMW: Final = {"adamw_torch": False, "adamw_torch_fused": True, "adamw_hf": False}  # is it fused?
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
KNOWN: Final = (*_ADAMW, "sgd", *_BITS8)


def make_optimizer(name: str, parameters: Iterable[torch.nn.Parameter], ranks: int = 1) -> Optimizer:
    """Return the optimizer with this name, for one of so many processes that share the parameters out.

    PlanError names the ones that can be planned.
    """
    trainable = list(parameters)
    if name in _ADAMW:
        return AdamW(trainable, fused=_ADAMW[name], ranks=ranks)
    if name == "sgd":
        return Sgd()
    if name in _BITS8:
        states, paged = _BITS8[name]
        return StateOnly(name, trainable, states, paged=paged)
    near = nearest(name, KNOWN)
    guess = f"; did you mean {near!r}?" if near else ""
    raise PlanError(f"the optimizer {name!r} cannot be planned{guess} Known are {', '.join(KNOWN)}")


def clip_gradients(parameters: Iterable[torch.nn.Parameter], recorder: Recorder) -> None:
    """Take what `torch.nn.utils.clip_grad_norm_` does before the step.

    A norm for each gradient, these joined, the norm of all, and in four small steps the factor that scales them.
    """
    gradients = [parameter.grad for parameter in _with_gradient(parameters) if parameter.grad is not None]
    if not gradients:
        return
    each = [recorder.held(gradient.element_size(), "norms", PART) for gradient in gradients]
    widest = max(gradient.element_size() for gradient in gradients)
    joined = recorder.held(widest * len(gradients), "norms joined", PART)
    total = recorder.held(widest, "norm of all", PART)
    recorder.release(joined)
    raised, inverse, scaled = (recorder.held(widest, "factor", PART) for _ in range(3))
    recorder.release(inverse)
    recorder.release(raised)
    factor = recorder.held(widest, "factor", PART)
    for number in (scaled, *each, total, factor):
        recorder.release(number)


def _with_gradient(parameters: Iterable[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Return the parameters that the step reached: the others are left as they are."""
    return [parameter for parameter in parameters if parameter.grad is not None]
