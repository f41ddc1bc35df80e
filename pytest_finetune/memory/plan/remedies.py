"""Single changes that need less memory, in a fixed order, each planned anew.

The order is that of the cost to the result: what leaves the mathematics alone comes first, another base
model last. The rank of the adapter is not among them: it holds hardly any of the memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pytest_finetune.memory.hardware.cards import Family
from pytest_finetune.memory.plan.figures import Figures
from pytest_finetune.memory.plan.planner import Limit, Planner
from pytest_finetune.memory.plan.workload import Adapter, Workload, layer_count

SHORTEST: Final = 64
KINDS: Final = ("length", "batch", "checkpointing", "optimizer", "quantization", "base")


class Change(NamedTuple):
    """One change of the experiment.

    In words, as keys of the experiment file, and what it makes of the workload.
    """

    kind: str
    words: str
    keys: Mapping[str, Any]
    workload: Workload
    note: str = ""


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change with its own plan; `enough` says whether it alone makes the training fit, `pair` that it is two."""

    change: str
    keys: Mapping[str, Any]
    peak_bytes: int
    needed_bytes: int
    enough: bool
    note: str = ""
    pair: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the remedy as the record keeps it."""
        return {
            "change": self.change,
            "keys": dict(self.keys),
            "peak_bytes": self.peak_bytes,
            "needed_bytes": self.needed_bytes,
            "enough": self.enough,
            "note": self.note,
            "pair": self.pair,
        }


@dataclass(frozen=True, slots=True)
class Remedies:
    """The single changes in their order; `pair` is the smallest pair, sought only when no single is enough."""

    singles: tuple[Remedy, ...]
    pair: Remedy | None

    @property
    def enough(self) -> tuple[Remedy, ...]:
        """Return the single changes that suffice."""
        return tuple(remedy for remedy in self.singles if remedy.enough)


def find_remedies(
    workload: Workload,
    longest_row: int | None,
    usable: int,
    family: Family,
    planner: Planner,
    *,
    processes: int = 1,
) -> Remedies:
    """Plan every change; of one kind the mildest that is enough is kept, else the strongest."""
    ladders = [ladder for ladder in changes(workload, longest_row, processes) if ladder]
    singles = list(_plan(ladders, usable, family, planner))
    pair = None
    if singles and not any(remedy.enough for remedy in singles):
        pair = _smallest_pair(ladders, longest_row, usable, family, planner, processes)
    return Remedies(tuple(singles), pair)


def changes(workload: Workload, longest_row: int | None, processes: int = 1) -> Iterator[list[Change]]:
    """Yield the changes that apply, one list a kind in the fixed order.

    Each from the mildest to the strongest. The workload is that of one of `processes`, whose accumulation steps are
    written as their sum.
    """
    yield list(_shorter(workload, longest_row))
    yield list(_smaller_batches(workload, processes))
    if not workload.checkpointing:
        keys: dict[str, Any] = {"training.gradient_checkpointing": True}
        yield [
            Change("checkpointing", "gradient_checkpointing true", keys, workload.changed(checkpointing=True))
        ]
    if workload.optimizer in ("adamw_torch", "adamw_torch_fused", "adamw_hf"):
        yield [
            Change("optimizer", f"optim {name}", {"training.optim": name}, workload.changed(optimizer=name))
            for name in ("adamw_8bit", "paged_adamw_8bit")
        ]
    if workload.quantization != "nf4" and workload.adapter is not None:
        adapter = workload.adapter
        quantized = workload.changed(
            quantization="nf4",
            adapter=type(adapter)(
                adapter.rank, adapter.targets, adapter.dropout, adapter.dora, workload.dtype
            ),
        )
        keys = {"peft_method": "qlora", "quantization": "nf4"}
        yield [Change("quantization", "peft_method qlora", keys, quantized, "the base in 4 bits (NF4)")]
    if workload.adapter is None:
        yield list(_adapter_instead(workload))
    yield list(_smaller_base(workload))


def _adapter_instead(workload: Workload) -> Iterator[Change]:
    """Offer an adapter in place of training every weight: the base stays frozen, in 16 bits, then in 4."""
    lora = workload.changed(adapter=Adapter(), dtype="bfloat16")
    yield Change("quantization", "peft_method lora", {"peft_method": "lora"}, lora, "an adapter of rank 8")
    qlora = lora.changed(quantization="nf4", adapter=Adapter(dtype="bfloat16"))
    keys = {"peft_method": "qlora", "quantization": "nf4"}
    yield Change("quantization", "peft_method qlora", keys, qlora, "an adapter on the base in 4 bits (NF4)")


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
            yield Change(
                "base",
                f"a smaller base_model ({words} of the layers)",
                {},
                cut,
                "planned on this architecture",
            )


def _plan(
    ladders: Sequence[Sequence[Change]], usable: int, family: Family, planner: Planner
) -> Iterator[Remedy]:
    """Yield one remedy a ladder: the mildest rung that is enough, else the strongest that was planned."""
    limit = Limit(family.cublas_bytes, usable - family.context_bytes)
    answers = planner.climb([[change.workload for change in ladder] for ladder in ladders], limit)
    for ladder, row in zip(ladders, answers, strict=True):
        remedies = [
            _remedy(change, answer, usable, family)
            for change, answer in zip(ladder, row, strict=True)
            if isinstance(answer, Figures)
        ]
        if remedies:
            yield next((remedy for remedy in remedies if remedy.enough), remedies[-1])


def _remedy(change: Change, figures: Figures, usable: int, family: Family) -> Remedy:
    held = figures.with_workspace(family.cublas_bytes)
    needed = held.smallest + family.context_bytes
    peak = held.reserved + family.context_bytes
    return Remedy(
        change.words, change.keys, peak, needed, needed <= usable, change.note, pair=change.kind == "pair"
    )


def _smallest_pair(
    ladders: Sequence[Sequence[Change]],
    longest_row: int | None,
    usable: int,
    family: Family,
    planner: Planner,
    processes: int,
) -> Remedy | None:
    """Return the pair of changes of two kinds that needs least; another base model only where no other pair is enough.

    Of a kind its strongest change takes part, but of length and base the mildest: a pair should not cut the
    rows or the model down to nothing.
    """
    chosen = [ladder[0] if ladder[0].kind in ("length", "base") else ladder[-1] for ladder in ladders]
    pairs = []
    for first, second in itertools.combinations(chosen, 2):
        later = (change for ladder in changes(first.workload, longest_row, processes) for change in ladder)
        pairs += [_both(first, change) for change in later if change.words == second.words]
    planned = list(_plan([[pair] for pair in pairs], usable, family, planner))
    return min(planned, key=_reluctance, default=None)


def _reluctance(pair: Remedy) -> tuple[bool, bool, int]:
    """Order pairs: enough first, then those that keep the base model, then by what they need."""
    return not pair.enough, pair.enough and "a smaller base_model" in pair.change, pair.needed_bytes


def _both(first: Change, second: Change) -> Change:
    note = "; ".join(filter(None, (first.note, second.note)))
    words = f"{first.words} and {second.words}"
    return Change("pair", words, {**first.keys, **second.keys}, second.workload, note)
