"""Record the birth and death of every storage while a step runs on fake (or real) tensors."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_finetune.memory.tracer.events import Became, Born, Died, Entered, Event

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from pytest_finetune.yamlfile import JsonTree

Tensor = torch.Tensor
Args = tuple[Any, ...]  # of an operator
Scratch = Callable[["Recorder", Args], Iterable[int]]


# What ``torch.tensor(0.0)`` makes lies in host memory, as an optimizer's step counters do.
_ON_HOST: Final = ("aten::lift_fresh",)


class Kernels(NamedTuple):
    """What CUDA kernels take beside their results, by operator: before the results are made, or after.

    Each function logs bytes with `Recorder.held` and returns the numbers of those that end with the operator.
    """

    before: Mapping[str, Scratch]
    after: Mapping[str, Scratch]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that logs storages and, with `kernels`, what CUDA takes beside them.

    `vocabulary` holds the last dimensions that mark a tensor as logits. A storage lives until Python's last
    reference is gone, which is when the allocator gets the block back.
    """

    def __init__(self, *, vocabulary: frozenset[int], kernels: Kernels) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self.part = "temporaries"
        self._vocabulary: Final = vocabulary
        self._kernels: Final = kernels
        self._known: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}
        self._count = 0

    def enter(self, phase: str, layer: int | None = None) -> None:
        """Note that a phase, or a layer inside it, begins."""
        self.events.append(Entered(phase, layer))

    def add(self, tensor: Tensor, part: str, op: str = "", size: int | None = None) -> None:
        """Log the tensor's storage as born now, unless it is known; `size` stands for its bytes where it is a share."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        number = self._next()
        self._known[key] = (number, weakref.ref(storage, lambda _: self._died(key, number)))
        self.events.append(Born(number, storage.nbytes() if size is None else size, part, op))

    def becomes(self, tensor: Tensor, part: str, size: int | None = None) -> None:
        """Move the tensor's storage to another part of the breakdown; only `size` bytes of it, where they are given."""
        known = self._known.get(tensor.untyped_storage()._cdata)
        if known is not None:
            self.events.append(Became(known[0], part, size))

    def held(self, size: int, op: str, part: str = "workspaces") -> int:
        """Log bytes that stay until `release`; return their number."""
        number = self._next()
        self.events.append(Born(number, int(size), part, op))
        return number

    def release(self, number: int) -> None:
        """End bytes that `held` began."""
        self.events.append(Died(number))

    def number_of(self, tensor: Tensor) -> int | None:
        """Return the number under which the tensor's storage was logged."""
        known = self._known.get(tensor.untyped_storage()._cdata)
        return None if known is None else known[0]

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: Args = (), kwargs: JsonTree | None = None
    ) -> object:
        name = func._schema.name
        taken = self._take(self._kernels.before, name, args)
        result = func(*args, **(kwargs or {}))
        for tensor in () if name in _ON_HOST else _tensors(result):
            logits = tensor.dim() >= 2 and tensor.shape[-1] in self._vocabulary
            self.add(tensor, "logits and loss" if logits else self.part, name)
        taken += self._take(self._kernels.after, name, args)
        for number in taken:
            self.release(number)
        return result

    def _take(self, kernels: Mapping[str, Scratch], name: str, args: Args) -> list[int]:
        scratch = kernels.get(name)
        return list(scratch(self, args)) if scratch is not None else []

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _died(self, key: int, number: int) -> None:
        self._known.pop(key, None)
        self.events.append(Died(number))


def _tensors(result: object) -> Iterator[Tensor]:
    """Yield the tensors of an operator's result, which is a tensor or a sequence of tensors or of sequences."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, tuple | list):
        for item in result:
            yield from _tensors(item)
