"""The trainer's real step, one class a trainer: which batch it makes, which loss it computes, what it keeps.

A plugin's trainer is planned by naming its own class (``module:Class`` or ``file.py:Class``) in the hook
`pytest_finetune_memory_step`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import torch

from pytest_finetune.memory.plan.figures import PlanError
from pytest_finetune.memory.plan.workload import Workload

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tensor = torch.Tensor


METHODS: Final = ("prepare", "batch", "loss", "session")


class Loss(NamedTuple):
    """The loss to call backward on, and what the caller's step still refers to until the step ends."""

    loss: Tensor
    held: object


class Step(Protocol):
    """What a trainer does in one forward pass."""

    def prepare(self, model: PreTrainedModel) -> None:
        """Patch the base model before PEFT wraps it, as the trainer would."""

    def batch(self, workload: Workload) -> dict[str, Tensor]:
        """Make the batch on the device, padded to the workload's length."""

    def loss(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> Loss:
        """Run the forward pass and compute the loss."""

    def session(self) -> contextlib.AbstractContextManager[None]:
        """Return what surrounds the whole trace."""


def load_step(name: str) -> Step:
    """Return the step that ``module:Class`` or ``file.py:Class`` names; PlanError when it is none."""
    place, _, attribute = name.rpartition(":")
    try:
        step = getattr(_module(place), attribute)()
    except Exception as error:
        raise PlanError(
            f"the training step {name!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from None
    missing = [method for method in METHODS if not callable(getattr(step, method, None))]
    if missing:
        raise PlanError(
            f"the training step {name!r} is no step: it lacks {', '.join(missing)} "
            "(subclass pytest_finetune.PlainStep)"
        )
    return step  # type: ignore[no-any-return]


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location(f"finetune_step_{Path(place).stem}", place)
    if spec is None or spec.loader is None:
        raise ImportError(f"{place!r} is no module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def token_batch(workload: Workload) -> dict[str, Tensor]:
    """Return ids and labels of one full batch; the values do not matter."""
    ids = torch.zeros(workload.batch, workload.tokens, dtype=torch.int64)
    return {"input_ids": ids, "labels": ids.clone()}


class PlainStep:
    """The plain Transformers step: the model computes the loss itself, from full logits upcast to float32."""

    def prepare(self, model: PreTrainedModel) -> None:
        """Nothing: the model stays as it is."""

    def batch(self, workload: Workload) -> dict[str, Tensor]:
        """Make ids and labels; without padding there is no mask."""
        return token_batch(workload)

    def loss(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> Loss:
        """Call the model with labels."""
        output = model(input_ids=batch["input_ids"], labels=batch["labels"])
        return Loss(output.loss, output)

    def session(self) -> contextlib.AbstractContextManager[None]:
        """Return an empty context."""
        return contextlib.nullcontext()


class TrlStep:
    """TRL's step: the fused head scores the supervised positions in tiles and never holds the full logits.

    Every position is taken as supervised, which is the most that a batch of this length can need. TRL's own
    kernel runs (`trl.kernels.ChunkedLogProbFunction`); around it stands what
    `trl.trainer.utils.add_fused_lm_head` does on CUDA: it copies the supervised hidden states out first,
    which it does not on a CPU.
    """

    outputs = ("log_probs", "entropy", "is_top1")
    width = 32768

    def prepare(self, model: PreTrainedModel) -> None:
        """Nothing: the backbone and the head are called one after the other in `loss`."""

    def batch(self, workload: Workload) -> dict[str, Tensor]:
        """Make ids, labels and the collator's attention mask."""
        batch = token_batch(workload)
        return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}

    def loss(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> Loss:
        """Run the backbone, then score every next token."""
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction

        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        output = base.base_model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        )
        hidden, labels = output.last_hidden_state[:, :-1], batch["labels"][:, 1:]
        mask = labels != -100
        head = base.get_output_embeddings()
        scores = ChunkedLogProbFunction.apply(
            _supervised(hidden),
            head.weight,
            head.bias,
            _supervised(labels),
            1.0,
            self.width,
            getattr(base.config.get_text_config(), "final_logit_softcapping", None),
            1.0,
            self.outputs,
        )
        scattered = [
            score.new_zeros(mask.shape) + score.view(mask.shape) for score in scores if score is not None
        ]
        loss = -scattered[0].sum() / mask.sum().clamp(min=1)
        return Loss(loss, (output, scattered))

    def session(self) -> contextlib.AbstractContextManager[None]:
        """Make TRL's torch fallback allocate what its Triton kernels do: nothing, they work in place on the tile."""
        return _in_place_tiles()


def _supervised(tensor: Tensor) -> Tensor:
    """Copy the supervised positions out, as boolean indexing does; the index itself is two int64 a position."""
    rows = torch.arange(tensor.shape[0])[:, None].expand(tensor.shape[:2]).reshape(-1)
    columns = torch.arange(tensor.shape[1])[None].expand(tensor.shape[:2]).reshape(-1)
    return tensor[rows, columns]


@contextlib.contextmanager
def _in_place_tiles() -> Iterator[None]:
    import trl.kernels.chunked_logprob as kernels

    names = ("_forward_tile", "_backward_tile", "_addmm_fp32")
    kept = {name: getattr(kernels, name) for name in names}
    for name in names:
        setattr(kernels, name, _nothing)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(kernels, name, function)


def _nothing(*args: object, **kwargs: object) -> None:
    """Stand in for a kernel that allocates nothing."""
