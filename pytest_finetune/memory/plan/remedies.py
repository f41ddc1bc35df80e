"""Changes that need less memory, each planned anew: one, then two or three together, then less of a model.

What leaves rows and base model as they are comes first, in a fixed order. Only when none of these is enough are
they joined, since people would rather train in 4 bits with checkpointing than another model; rows cut short and a
smaller base come last. The rank of the adapter is not among them: it holds hardly any of the memory.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pytest_finetune.fingerprint import own_quantization
from pytest_finetune.memory.hardware.budget import Budget
from pytest_finetune.memory.plan.figures import Figures
from pytest_finetune.memory.plan.plan import MemoryPlan, for_family
from pytest_finetune.memory.plan.planner import Limit, Planner
from pytest_finetune.memory.plan.workload import Adapter, Workload, layer_count
from pytest_finetune.yamlfile import Json

SHORTEST: Final = 64
WORTH_JOINING: Final = 0.02
"""Of what the plan needs, how much a change must save alone to be tried with others: each trace takes seconds."""
_JOINED: Final = ("length", "optimizer", "checkpointing", "quantization", "batch")
"""The kinds that are joined, by what they cost in time, the least first: a smaller batch fills the card less."""
_QLORA: Final = {"peft_method": "qlora", "quantization": "nf4"}


class Change(NamedTuple):
    """One change of the experiment in words, as keys of the experiment file, and what it makes of the workload.

    `cuts` says that the rows or the base model lose something by it.
    """

    kind: str
    words: str
    keys: Json
    workload: Workload
    note: str = ""
    cuts: bool = False


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change with its own plan: whether it alone is `enough`, and whether it is a `pair` (or three) of changes.

    Over several `cards` the plan is that of each.
    """

    change: str
    keys: Json
    peak_bytes: int
    needed_bytes: int
    enough: bool
    note: str = ""
    pair: bool = False
    cuts: bool = False
    cards: int = 1

    def as_json(self) -> dict[str, object]:
        """Return the remedy as the record keeps it; how many cards it takes where it is not one."""
        tree = dataclasses.asdict(self)
        if self.cards == 1:
            del tree["cards"]
        return tree


@dataclass(frozen=True, slots=True)
class Remedies:
    """The changes in the order of their reluctance: `singles`, `joined` ones, and single `cuts` into rows or base.

    Joined ones are sought only when no single is enough; those that are enough stand there, else the best. Last comes
    the same training `over` more cards.
    """

    singles: tuple[Remedy, ...]
    joined: tuple[Remedy, ...]
    cuts: tuple[Remedy, ...]
    over: tuple[Remedy, ...] = ()

    @property
    def all(self) -> tuple[Remedy, ...]:
        """Return every change, in the order in which they should be tried."""
        return (*self.singles, *self.joined, *self.cuts, *self.over)

    @property
    def enough(self) -> tuple[Remedy, ...]:
        """Return the changes that suffice, in the same order."""
        return tuple(remedy for remedy in self.all if remedy.enough)


def find_remedies(plan: MemoryPlan, budget: Budget | int, planner: Planner) -> Remedies:
    """Plan every change of the plan's step; of one kind the mildest that is enough is kept, else the strongest.

    The planner may start a process that traces, which takes seconds.
    """
    plan, usable = plan.within(budget)
    spread = list(_over_cards(plan))
    ladders = [ladder for ladder in changes(plan.workload, plan.longest_row, plan.processes) if ladder]
    keeping = [mild for ladder in ladders if (mild := [change for change in ladder if not change.cuts])]
    cutting = [hard for ladder in ladders if (hard := [change for change in ladder if change.cuts])]
    found = _planned([*keeping, *cutting, *([spread] if spread else [])], plan, usable, planner)
    both = [remedy for remedy in found if remedy.cards == 1]
    over = tuple(remedy for remedy in found if remedy.cards > 1)
    singles = tuple(remedy for remedy in both if not remedy.cuts)
    cuts = tuple(remedy for remedy in both if remedy.cuts)
    joined: tuple[Remedy, ...] = ()
    if singles and not any(remedy.enough for remedy in singles):
        spare = plan.needed_bytes * (1 - WORTH_JOINING)
        helping = {remedy.change for remedy in singles if remedy.needed_bytes <= spare}
        joined = _join(
            [ladder for ladder in keeping if helping & {change.words for change in ladder}],
            plan,
            usable,
            planner,
        )
    return Remedies(singles, joined, cuts, over)


def over_cards(plan: MemoryPlan, budget: Budget, planner: Planner) -> Remedy | None:
    """Return the training shared out over the fewest cards that hold it, else over the most; None without any."""
    judged, usable = plan.within(budget)
    spread = list(_over_cards(judged))
    return next(iter(_planned([spread], judged, usable, planner)), None) if spread else None


def _over_cards(plan: MemoryPlan) -> Iterator[Change]:
    """Offer to share the model out over more cards, on those that compute in bfloat16."""
    for workload in plan.spreads if plan.family.bf16 else ():
        keys = {"training.launcher.processes": workload.ranks, "training.shard": True}
        words = f"launcher {{processes: {workload.ranks}}} and shard true"
        note = f"on each of {workload.ranks} cards; not measured on cards"
        yield Change("cards", words, keys, for_family(workload, plan.family), note)


def _join(
    ladders: Sequence[Sequence[Change]], plan: MemoryPlan, usable: int, planner: Planner
) -> tuple[Remedy, ...]:
    """Return the pairs that are enough; without one the triples that are, without one the best of all tried."""
    tried: list[Remedy] = []
    for number in (2, 3):
        planned = _planned([[one] for one in _together(ladders, plan, number)], plan, usable, planner)
        if enough := tuple(remedy for remedy in planned if remedy.enough):
            return enough
        tried += planned
    return (min(tried, key=lambda remedy: remedy.needed_bytes),) if tried else ()


def changes(workload: Workload, longest_row: int | None, processes: int = 1) -> Iterator[list[Change]]:
    """Yield the changes that apply, one list a kind in the fixed order, each from the mildest to the strongest.

    The workload is that of one of `processes`, whose accumulation steps are
    written as their sum.
    """
    yield list(_shorter(workload, longest_row))
    yield list(_smaller_batches(workload, processes))
    if not workload.checkpointing:
        # Of equal passes an adapter's step has two (forward, backward), a full one three: one more is computed.
        factor = "1.5" if workload.adapter is not None else "1.3"
        keys = {"training.gradient_checkpointing": True}
        note = f"computes each layer twice: {factor} times the work"
        checkpointed = workload.changed(checkpointing=True)
        yield [Change("checkpointing", "gradient_checkpointing true", keys, checkpointed, note)]
    shared = workload.ranks > 1  # which bitsandbytes' weights and optimizers cannot be
    if not shared and workload.optimizer in ("adamw_torch", "adamw_torch_fused", "adamw_hf"):
        yield [
            Change("optimizer", f"optim {name}", {"training.optim": name}, workload.changed(optimizer=name))
            for name in ("adamw_8bit", "paged_adamw_8bit")
        ]
    if not shared and workload.quantization != "nf4" and workload.adapter is not None:
        adapter = dataclasses.replace(workload.adapter, dtype=workload.dtype)
        quantized = workload.changed(quantization="nf4", adapter=adapter)
        note = "the base in 4 bits (NF4), unpacked in every pass"
        if own_quantization(workload.config) is not None:
            note += ": name the model that this base was made from"
        yield [Change("quantization", "peft_method qlora", _QLORA, quantized, note)]
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
        cuts = longest_row is None or longest_row > length
        yield Change("length", f"max_seq_length {length}", keys, workload.changed(tokens=length), note, cuts)


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
            yield Change("base", named, {}, cut, "planned on this architecture", cuts=True)


def _planned(
    ladders: Sequence[Sequence[Change]], plan: MemoryPlan, usable: int, planner: Planner
) -> list[Remedy]:
    """Return one remedy a ladder: the mildest rung that is enough, else the strongest that was planned."""
    limit = Limit(plan.family.cublas_bytes, usable - plan.family.context_bytes)
    answers = planner.climb([[change.workload for change in ladder] for ladder in ladders], limit)
    found = []
    for ladder, row in zip(ladders, answers, strict=True):
        remedies = [
            _remedy(change, dataclasses.replace(plan, figures=answer), usable)
            for change, answer in zip(ladder, row, strict=True)
            if isinstance(answer, Figures)
        ]
        if remedies:
            found.append(next((remedy for remedy in remedies if remedy.enough), remedies[-1]))
    return found


def _remedy(change: Change, plan: MemoryPlan, usable: int) -> Remedy:
    return Remedy(
        change.words,
        change.keys,
        plan.peak_bytes,
        plan.needed_bytes,
        plan.needed_bytes <= usable,
        change.note,
        pair=change.kind == "joined",
        cuts=change.cuts,
        cards=change.workload.ranks if change.kind == "cards" else 1,
    )


def _together(ladders: Sequence[Sequence[Change]], plan: MemoryPlan, number: int) -> Iterator[Change]:
    """Yield `number` changes of different kinds together, each at its strongest, by what they cost in time."""
    strongest = {ladder[-1].kind: ladder[-1] for ladder in ladders}
    kinds = [kind for kind in _JOINED if kind in strongest]
    for chosen in sorted(
        itertools.combinations(kinds, number), key=lambda names: sum(map(kinds.index, names))
    ):
        change = strongest[chosen[0]]
        for kind in chosen[1:]:
            offered = itertools.chain(*changes(change.workload, plan.longest_row, plan.processes))
            later = next((one for one in offered if one.words == strongest[kind].words), None)
            if (
                later is None
            ):  # what came first leaves nothing of it, as an adapter in place of full weights does
                break
            change = later._replace(
                kind="joined",
                words=f"{change.words} and {later.words}",
                keys={**change.keys, **later.keys},
                note="; ".join(filter(None, (change.note, later.note))),
            )
        else:
            yield change
