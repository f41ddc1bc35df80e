"""Single changes that need less memory, in a fixed order, each planned anew.

The order is that of the cost to the result: what leaves the mathematics alone comes first, another base
model last. The rank of the adapter is not among them: it holds hardly any of the memory.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.plan.figures import Figures
from pytest_finetune.memory.plan.plan import MemoryPlan
from pytest_finetune.memory.plan.planner import Limit, Planner
from pytest_finetune.memory.plan.workload import Adapter, Workload, layer_count
from pytest_finetune.yamlfile import Json

SHORTEST: Final = 64
_QLORA: Final = {"peft_method": "qlora", "quantization": "nf4"}


class Change(NamedTuple):
    """One change of the experiment in words, as keys of the experiment file, and what it makes of the workload."""

    kind: str
    words: str
    keys: Json
    workload: Workload
    note: str = ""


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change with its own plan; `enough` says whether it alone makes the training fit, `pair` that it is two."""

    change: str
    keys: Json
    peak_bytes: int
    needed_bytes: int
    enough: bool
    note: str = ""
    pair: bool = False

    def as_json(self) -> dict[str, object]:
        """Return the remedy as the record keeps it."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Remedies:
    """The single changes in their order; `pair` is the smallest pair, sought only when no single is enough."""

    singles: tuple[Remedy, ...]
    pair: Remedy | None

    @property
    def enough(self) -> tuple[Remedy, ...]:
        """Return the single changes that suffice."""
        return tuple(remedy for remedy in self.singles if remedy.enough)

    @property
    def all(self) -> tuple[Remedy, ...]:
        """Return the single changes, and the pair after them."""
        return (*self.singles, *((self.pair,) if self.pair else ()))


def find_remedies(plan: MemoryPlan, budget: Budget | int, planner: Planner) -> Remedies:
    """Plan every change of the plan's step; of one kind the mildest that is enough is kept, else the strongest.

    The planner may start a process that traces, which takes seconds.
    """
    plan, usable = plan.within(budget)
    ladders = [ladder for ladder in changes(plan.workload, plan.longest_row, plan.processes) if ladder]
    singles = tuple(_planned(ladders, plan, usable, planner))
    pair = None
    if singles and not any(remedy.enough for remedy in singles):
        pairs = [[pair] for pair in _pairs(ladders, plan)]
        pair = min(_planned(pairs, plan, usable, planner), key=_reluctance, default=None)
    return Remedies(singles, pair)


def changes(workload: Workload, longest_row: int | None, processes: int = 1) -> Iterator[list[Change]]:
    """Yield the changes that apply, one list a kind in the fixed order, each from the mildest to the strongest.

    The workload is that of one of `processes`, whose accumulation steps are
    written as their sum.
    """
    yield list(_shorter(workload, longest_row))
    yield list(_smaller_batches(workload, processes))
    if not workload.checkpointing:
        without = workload.changed(checkpointing=True)
        yield [
            Change(
                "checkpointing",
                "gradient_checkpointing true",
                {"training.gradient_checkpointing": True},
                without,
            )
        ]
    if workload.optimizer in ("adamw_torch", "adamw_torch_fused", "adamw_hf"):
        yield [
            Change("optimizer", f"optim {name}", {"training.optim": name}, workload.changed(optimizer=name))
            for name in ("adamw_8bit", "paged_adamw_8bit")
        ]
    if workload.quantization != "nf4" and workload.adapter is not None:
        adapter = dataclasses.replace(workload.adapter, dtype=workload.dtype)
        quantized = workload.changed(quantization="nf4", adapter=adapter)
        yield [Change("quantization", "peft_method qlora", _QLORA, quantized, "the base in 4 bits (NF4)")]
    if workload.adapter is None:
        yield list(_adapter_instead(workload))
    yield list(_smaller_base(workload))


def _adapter_instead(workload: Workload) -> Iterator[Change]:
    """Offer an adapter in place of training every weight: the base stays frozen, in 16 bits, then in 4."""
    lora = workload.changed(adapter=Adapter(), dtype="bfloat16")
    yield Change("quantization", "peft_method lora", {"peft_method": "lora"}, lora, "an adapter of rank 8")
    qlora = lora.changed(quantization="nf4", adapter=Adapter(dtype="bfloat16"))
    yield Change("quantization", "peft_method qlora", _QLORA, qlora, "an adapter on the base in 4 bits (NF4)")


def _shorter(workload: Workload, longest_row: int | None) -> Iterator[Change]:
    lengths = []
    if longest_row is not None and longest_row < workload.tokens:
        lengths.append(longest_row)
    length = 1 << (workload.tokens - 1).bit_length() - 1
    while length >= SHORTEST and len(lengths) < 4:
        if not lengths or length < lengths[-1]:
            lengths.append(length)
        length //= 2
    for length in lengths:
        if longest_row is None:
            note = "if your rows are no longer than that"
        elif longest_row <= length:
            note = f"your longest row has {longest_row} tokens"
        else:
            note = f"it cuts rows: your longest has {longest_row} tokens"
        keys = {"training.max_seq_length": length}
        yield Change("length", f"max_seq_length {length}", keys, workload.changed(tokens=length), note)


def _smaller_batches(workload: Workload, processes: int) -> Iterator[Change]:
    batch, accumulation = workload.batch, workload.accumulation
    while batch > 1:
        smaller = batch // 2
        accumulation = -(-accumulation * batch // smaller)
        batch = smaller
        yield Change(
            "batch",
            f"per_device_train_batch_size {batch}",
            {
                "training.per_device_train_batch_size": batch,
                "training.gradient_accumulation_steps": accumulation * processes,
            },
            workload.changed(batch=batch, accumulation=accumulation, masked=workload.masked and batch > 1),
            f"with gradient_accumulation_steps {accumulation * processes}: the same effective batch",
        )


def _smaller_base(workload: Workload) -> Iterator[Change]:
    """Offer half and a quarter of the layers as a stand-in for a smaller model of the family."""
    full = layer_count(workload.config)
    for share, words in ((2, "half"), (4, "a quarter")):
        if full // share >= 2:
            cut = workload.changed(layers=full // share)
            named = f"a smaller base_model ({words} of the layers)"
            yield Change("base", named, {}, cut, "planned on this architecture")


def _planned(
    ladders: Sequence[Sequence[Change]], plan: MemoryPlan, usable: int, planner: Planner
) -> Iterator[Remedy]:
    """Yield one remedy a ladder: the mildest rung that is enough, else the strongest that was planned."""
    limit = Limit(plan.family.cublas_bytes, usable - plan.family.context_bytes)
    answers = planner.climb([[change.workload for change in ladder] for ladder in ladders], limit)
    for ladder, row in zip(ladders, answers, strict=True):
        remedies = [
            _remedy(change, dataclasses.replace(plan, figures=answer), usable)
            for change, answer in zip(ladder, row, strict=True)
            if isinstance(answer, Figures)
        ]
        if remedies:
            yield next((remedy for remedy in remedies if remedy.enough), remedies[-1])


def _remedy(change: Change, plan: MemoryPlan, usable: int) -> Remedy:
    enough, pair = plan.needed_bytes <= usable, change.kind == "pair"
    return Remedy(
        change.words, change.keys, plan.peak_bytes, plan.needed_bytes, enough, change.note, pair=pair
    )


def _pairs(ladders: Sequence[Sequence[Change]], plan: MemoryPlan) -> Iterator[Change]:
    """Yield the pairs of changes of two kinds.

    Of a kind its strongest change takes part, but of length and base the mildest: a pair should not cut the
    rows or the model down to nothing.
    """
    chosen = [ladder[0] if ladder[0].kind in ("length", "base") else ladder[-1] for ladder in ladders]
    for first, second in itertools.combinations(chosen, 2):
        for ladder in changes(first.workload, plan.longest_row, plan.processes):
            for later in ladder:
                if later.words == second.words:
                    words = f"{first.words} and {later.words}"
                    note = "; ".join(filter(None, (first.note, later.note)))
                    yield Change("pair", words, {**first.keys, **later.keys}, later.workload, note)


def _reluctance(pair: Remedy) -> tuple[bool, bool, int]:
    """Order pairs: enough first, then those that keep the base model, then by what they need."""
    return not pair.enough, pair.enough and "a smaller base_model" in pair.change, pair.needed_bytes
