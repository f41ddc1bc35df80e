"""The memory plan of an experiment: what the training needs, held against a budget."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_finetune.experiment.launcher import share_of, shared_out
from pytest_finetune.fingerprint import BaseModelError, base_folder, own_quantization, portable
from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.hardware.cards import UNKNOWN, Family
from pytest_finetune.memory.hardware.disk import DiskPlan, plan_disk
from pytest_finetune.memory.plan.figures import Figures, Held, PlanError
from pytest_finetune.memory.plan.planner import Planner
from pytest_finetune.memory.plan.weights import files_to_check
from pytest_finetune.memory.plan.workload import TRL_STEP, Adapter, Workload, each_process
from pytest_finetune.wording import size

if TYPE_CHECKING:
    from pytest_finetune.experiment import Experiment
    from pytest_finetune.fingerprint import OwnQuantization
    from pytest_finetune.yamlfile import Json, JsonTree

FITS: Final = "fits"
TIGHT: Final = "tight"
DOES_NOT_FIT: Final = "does not fit"
_A_NODE: Final = 8
"""Cards that an executor's node is taken to have at most, where it lists which kind."""


@dataclass(frozen=True, slots=True, eq=False)
class MemoryPlan:
    """What one training step needs on an accelerator, predicted.

    Compares with a `Budget` or with bytes: ``memory_plan <= gpu_budget`` holds when the training runs
    there, tightly or not. Nothing is traced for an answer: `traced` has what was traced for the kernels of
    further cards. `longest_row` is the length of the longest row in tokens, None when it is not known. It is
    the plan of each of `processes`, every one on a card of its own. `spreads` are the steps of processes that would
    share the model out over more of the cards that are to be had, the fewest first.
    """

    workload: Workload
    figures: Figures
    longest_row: int | None
    family: Family = UNKNOWN
    notes: tuple[str, ...] = ()
    disk: DiskPlan | None = None
    processes: int = 1
    traced: tuple[tuple[Workload, Figures], ...] = ()
    spreads: tuple[Workload, ...] = ()

    @property
    def held(self) -> Held:
        """Return what the allocator holds with the cuBLAS workspaces of the family."""
        return self.figures.with_workspace(self.family.cublas_bytes)

    @property
    def peak_bytes(self) -> int:
        """Return the bytes that the process takes at most: what the allocator reserves, and the context."""
        return self.held.reserved + self.family.context_bytes

    @property
    def needed_bytes(self) -> int:
        """Return the bytes below which the training runs out of memory, the context among them."""
        return self.held.smallest + self.family.context_bytes

    @property
    def allocated_bytes(self) -> int:
        """Return the peak of allocated blocks, without context and cached memory."""
        return self.held.allocated

    @property
    def reserved_bytes(self) -> int:
        """Return the peak of what the allocator reserves when nothing presses it."""
        return self.held.reserved

    @property
    def breakdown(self) -> Mapping[str, int]:
        """Return the parts of `peak_bytes`, which they add up to."""
        live = {part: size for part, size in self.figures.parts.items() if size}
        live["workspaces"] = live.get("workspaces", 0) - 2 * (
            max(self.figures.held) - self.family.cublas_bytes
        )
        rest = self.reserved_bytes - sum(live.values())
        return {
            **{k: v for k, v in live.items() if v},
            "fragmentation": rest,
            "context": self.family.context_bytes,
        }

    @property
    def phase(self) -> str:
        """Return the phase in which the peak is reached: forward, backward or optimizer."""
        return self.figures.phase

    @property
    def layer(self) -> int | None:
        """Return the layer at the peak (counted from 0), None outside the layers."""
        return self.figures.layer

    @property
    def tokens(self) -> int:
        """Return the traced length in tokens."""
        return self.workload.tokens

    @property
    def batch(self) -> int:
        """Return the rows of one forward pass."""
        return self.workload.batch

    def on(self, family: Family) -> MemoryPlan:
        """Return the plan for the cards of a family; PlanError when no step was traced for kernels like theirs."""
        workload = for_family(self.workload, family)
        known = ((self.workload, self.figures), *self.traced)
        figures = next((figures for one, figures in known if one == workload), None)
        if figures is None:
            raise PlanError(f"not compared: the step was not planned for the kernels of {family.name} cards")
        return dataclasses.replace(self, workload=workload, figures=figures, family=family)

    def verdict(self, budget: Budget | int) -> str:
        """Return ``fits``, ``tight`` or ``does not fit``.

        A tight training runs, but only while the allocator keeps giving memory back.
        """
        if isinstance(budget, Budget):
            _check_device(self.workload, budget)
        plan, usable = self.within(budget)
        if plan.peak_bytes <= usable:
            return FITS
        return TIGHT if plan.needed_bytes <= usable else DOES_NOT_FIT

    def __le__(self, budget: Budget | int) -> bool:
        """Tell whether the training runs within the budget."""
        if not isinstance(budget, Budget | int):
            return NotImplemented
        if isinstance(budget, Budget) and not budget.comparable:
            raise PlanError(f"not compared: {budget.incomparable_because}")
        return self.verdict(budget) != DOES_NOT_FIT

    def within(self, budget: Budget | int) -> tuple[MemoryPlan, int]:
        """Return the plan for the card of a budget, and the bytes that may be used; bare bytes name no card."""
        if isinstance(budget, Budget):
            return self.on(budget.family), budget.usable_bytes
        return self, budget

    def __repr__(self) -> str:
        return f"predicted peak {size(self.peak_bytes)} (batch {self.batch}, {self.tokens} tokens)"


def plan_memory(
    experiment: Experiment,
    longest_tokens: int | None,
    planner: Planner,
    *,
    families: Sequence[Family] = (),
    step: str = TRL_STEP,
    notes: Sequence[str] = (),
    expandable_segments: bool = False,
    cards: int = 1,
) -> MemoryPlan:
    """Plan the training of an experiment; a second call with the same store traces nothing and needs no torch.

    `longest_tokens` is the longest training row as the tokenizer counts it, None when unknown. The step is also
    traced for the kernels of the cards of `families`. `step` names the trainer's step, `notes` is what the caller
    has to say about it. So many `cards` are here; an executor or a launcher may name more. Raises PlanError when the
    model's configuration is missing or not understood.
    """
    workload, assumed = workload_of(experiment, longest_tokens, step=step)
    most = max(cards, experiment.training.launcher.processes, _A_NODE if experiment.executor.cards else 1)
    wider = shared_out(experiment, most) if step == TRL_STEP else ()
    spreads = [workload_of(one, longest_tokens)[0] for one in wider]
    if expandable_segments:
        workload = workload.changed(expandable_segments=True)
        spreads = [spread.changed(expandable_segments=True) for spread in spreads]
        notes = (*notes, "replayed with expandable segments, as PYTORCH_ALLOC_CONF asks for")
    workloads = [workload, *(one for family in families if (one := for_family(workload, family)) != workload)]
    figures, *further = planner.each(workloads, files_to_check(experiment))
    kept = experiment.training.save_total_limit
    disk = plan_disk(workload, figures.trainable, kept, experiment.local_base())
    processes = experiment.training.launcher.processes
    said = (*assumed, *each_process(processes, figures.trainable, shared=workload.ranks > 1), *notes)
    traced = tuple(zip(workloads[1:], further, strict=True))
    return MemoryPlan(
        workload,
        figures,
        longest_tokens,
        notes=said,
        disk=disk,
        processes=processes,
        traced=traced,
        spreads=tuple(spreads),
    )


def workload_of(
    experiment: Experiment, longest_tokens: int | None, *, step: str = TRL_STEP
) -> tuple[Workload, tuple[str, ...]]:
    """Return the step that training will run on an accelerator, and notes about what was assumed."""
    training = experiment.training
    tokens, batch, note = _shape(experiment, longest_tokens)
    quantized = experiment.quantization != "none"
    full = experiment.peft_method == "full"
    config = read_config(experiment)
    own = _own_quantization(experiment, config)
    workload = Workload(
        config=config,
        tokens=tokens,
        batch=batch,
        accumulation=share_of(training).accumulation,
        quantization=experiment.quantization,
        double_quant=own is None or own.double or own.loaded != "nf4",
        # Every weight is trained as it was loaded; float32 when that is what training keeps its masters in.
        dtype="float32" if full else "bfloat16",
        adapter=None
        if full
        else Adapter(
            rank=experiment.lora.r,
            targets=experiment.lora.target_modules,
            dropout=experiment.lora.dropout,
            dora=experiment.peft_method == "dora",
            dtype="bfloat16" if quantized else "float32",
        ),
        checkpointing=training.gradient_checkpointing,
        **_attention(experiment.attn_implementation, masked=batch > 1 or training.packing),
        optimizer=training.optim,
        max_grad_norm=float(training.sft.get("max_grad_norm", 1.0)),
        step=step,
        # A model that is shared out is moved to the cards layer by layer, from the machine's memory.
        loading="moved" if training.shard else "streamed",
        ranks=training.launcher.processes if training.shard else 1,
    )
    return workload, (note, *_stored(own), *_not_planned(training.sft))


def _stored(own: OwnQuantization | None) -> Iterator[str]:
    if own is not None:
        loaded = "in plain weights" if own.dequantised else "as it is"
        yield f"the base is stored in {own.name} by itself, and planned as it is loaded: {loaded}"


def _attention(asked: str | None, *, masked: bool) -> JsonTree:
    """Return the kernel of the attention that was asked for; where none was, the tracer asks the architecture.

    FlashAttention's own package takes the padding out of a batch, so that it needs no mask.
    """
    if asked == "eager":
        return {"attention": "eager", "masked": masked}
    if asked in ("flash_attention_2", "flash_attention_3"):
        return {"attention": "flash_only", "masked": False}
    return {"masked": masked}


# Arguments of SFTConfig that change what a step holds, and that the traced step does not follow.
_UNTRACED: Final = (
    "activation_offloading",
    "label_smoothing_factor",
    "liger_kernel_config",
    "model_init_kwargs",
    "torch_compile",
    "use_liger_kernel",
)


def _not_planned(sft: Json) -> Iterator[str]:
    yield from (f"training.sft.{name} is not followed by the plan" for name in _UNTRACED if sft.get(name))


def _shape(experiment: Experiment, longest_tokens: int | None) -> tuple[int, int, str]:
    """Return tokens and rows of the largest batch, and what was assumed.

    Packed rows travel as one sequence without padding, whose mask keeps the rows apart.
    """
    training = experiment.training
    limit, batch = training.max_seq_length, share_of(training).batch
    if training.packing:
        tokens = batch * limit
        return tokens, 1, f"rows are packed: {batch} x {limit} tokens are one sequence of {tokens}"
    if longest_tokens is None:
        return limit, batch, f"the rows' lengths are not known: planned for max_seq_length {limit}"
    tokens = max(2, min(longest_tokens, limit))
    return tokens, batch, f"planned for the longest row that training sees, {tokens} tokens"


def for_family(workload: Workload, family: Family) -> Workload:
    """Return the workload as the cards of a family run it.

    What they cannot compute in bfloat16 they compute in float16, and without flash attention with the efficient one.
    """
    changes: dict[str, str] = {}
    if not family.flash and workload.attention == "flash":
        changes["attention"] = "efficient"
    if not family.bf16 and workload.dtype == "bfloat16":
        changes["dtype"] = "float16"
    if not family.bf16 and workload.autocast == "bfloat16":
        changes["autocast"] = "float16"
    return workload.changed(**changes) if changes else workload


def read_config(experiment: Experiment) -> Json:
    """Return the base model's ``config.json``; PlanError when it is not here or is no JSON object."""
    try:
        file = base_folder(experiment) / "config.json"
    except BaseModelError as error:
        raise PlanError(str(error)) from None
    return _config(file)


def _config(file: Path) -> Json:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise PlanError(
            f"base model: {str(file)!r} is missing; the plan needs the model's config.json, no weights"
        ) from None
    except ValueError as error:
        raise PlanError(f"base model: {str(file)!r} is not JSON: {error}") from None
    if not isinstance(tree, dict) or "model_type" not in tree:
        raise PlanError(f"base model: {str(file)!r} names no model_type, so its architecture is unknown")
    return {name: portable(value) for name, value in tree.items()}


def _own_quantization(experiment: Experiment, config: Json) -> OwnQuantization | None:
    """Return how the base is stored by itself; PlanError where the method cannot train on it."""
    own = own_quantization(config)
    untrainable = own and own.untrainable(experiment.quantization, experiment.peft_method)
    if untrainable:
        raise PlanError(f"base model: {experiment.base_model!r} {untrainable}")
    return own


def _check_device(workload: Workload, budget: Budget) -> None:
    if budget.device == "mps" and workload.quantization != "none":
        raise PlanError(
            f"quantization {workload.quantization!r} needs bitsandbytes' kernels, which {budget.name} cannot run; "
            "they run on NVIDIA and AMD cards. Here: quantization: none"
        )
