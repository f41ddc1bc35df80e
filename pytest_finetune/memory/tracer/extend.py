"""Extend the timeline of a few layers to all of them, event by event.

Layers of one kind do the same, so the blocks of two inner layers of a shallow trace must be equal once
every storage is named by where it was born: the block (phase and layer), and its place among that block's
births. Then a deeper model's timeline is the shallow one with the inner block repeated. Whatever does not
follow that rule raises `NotRepeatedError`, and the model is traced in full. What the optimizer does is not
guessed: it is traced on the full list of parameters and put in whole. A later step does what the first one
did, but for what that one took for good, and for what it gave away of the loaded model (bitsandbytes casts biases).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pytest_finetune.memory.tracer.events import Became, Born, Died, Entered, Event, Timeline

EDGE: Final = 2
SHALLOW: Final = 2 * EDGE + 2
OPTIMIZER: Final = "optimizer"
ZERO: Final = "zero"


class NotRepeatedError(Exception):
    """The layers of the shallow trace do not repeat, so it says nothing about a deeper model."""


class Name(NamedTuple):
    """A storage by its birth: the run of blocks, the layer (None outside), the place among that block's births."""

    run: int
    layer: int | None
    place: int


class Use(NamedTuple):
    """A death (`part` None) or a change of part, of a storage named relative to the layer of the block it is in."""

    run: int
    offset: int | None
    place: int
    part: str | None


Relative = Born | Use | Event


@dataclass(slots=True)
class Block:
    """The events between two marks. `run` numbers the passes over the layers; blocks outside have one each."""

    phase: str
    layer: int | None
    run: int
    events: list[Event] = field(default_factory=list)


class OptimizerTrace(NamedTuple):
    """One step of the optimizer over all parameters, and the gradients that it frees.

    What the first step makes and keeps is the state; a later step does the same without making it.
    `gradients` holds the storage of each of the shallow model's gradients, `layers` the layer of each.
    """

    first: Timeline
    gradients: Sequence[int]
    layers: Sequence[int | None]


def extend(
    shallow: Timeline, traced: int, depth: int, optimizer: OptimizerTrace, *, steps: int
) -> list[Event]:
    """Return the timeline of `depth` layers from one of `traced` layers; NotRepeatedError when that cannot be done."""
    blocks = list(_blocks(shallow))
    names = dict(_names(blocks))
    _check(blocks, names, traced)
    runs = list(_runs(blocks))
    first = next(index for index, run in enumerate(runs) if run[0].phase == "forward")
    writer = _Writer(names, traced, depth, frozenset(_kept(shallow)), runs[first][0].run)
    for run in runs[:first]:
        writer.run(run, optimizer)
    for _ in range(steps):
        for run in runs[first:-1]:
            writer.run(run, optimizer)
        writer.later = True
    writer.run(runs[-1], optimizer)
    return writer.events


def _kept(timeline: Timeline) -> set[int]:
    """Return the storages that never die: weights, and what the first step takes for good."""
    born = {event.storage for event in timeline if isinstance(event, Born)}
    return born - {event.storage for event in timeline if isinstance(event, Died)}


def _blocks(timeline: Timeline) -> Iterator[Block]:
    """Cut the timeline at its marks; consecutive marks of one place are one block."""
    block = Block("", None, 0)
    direction = 0
    for event in timeline:
        if not isinstance(event, Entered):
            block.events.append(event)
            continue
        if (event.phase, event.layer) == (block.phase, block.layer):
            continue
        yield block
        run = block.run
        if event.layer is None or block.layer is None or event.phase != block.phase:
            run, direction = run + 1, 0
        else:
            turn = 1 if event.layer > block.layer else -1
            if direction not in (0, turn):
                run, turn = run + 1, 0
            direction = turn
        block = Block(event.phase, event.layer, run)
    yield block


def _runs(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Group the blocks of one pass over the layers."""
    found: dict[int, list[Block]] = {}
    for block in blocks:
        found.setdefault(block.run, []).append(block)
    yield from found.values()


def _names(blocks: Iterable[Block]) -> Iterator[tuple[int, Name]]:
    for block in blocks:
        births = (event for event in block.events if isinstance(event, Born))
        for place, event in enumerate(births):
            yield event.storage, Name(block.run, block.layer, place)


def _relative(block: Block, names: Mapping[int, Name]) -> list[Relative]:
    """Write a block without storage numbers; the deaths of a row are sorted, since their order changes nothing."""
    written: list[Relative] = []
    row: list[Use] = []
    for event in block.events:
        if isinstance(event, Died | Became):
            name = names[event.storage]
            offset = None if name.layer is None or block.layer is None else name.layer - block.layer
            part = event.part if isinstance(event, Became) else None
            row.append(Use(name.run, offset, name.place, part))
        else:
            written += sorted(row, key=repr)
            row = []
            written.append(event._replace(storage=0) if isinstance(event, Born) else event)
    return [*written, *sorted(row, key=repr)]


def _check(blocks: Sequence[Block], names: Mapping[int, Name], traced: int) -> None:
    """Demand that every pass visits all layers once, and that the two inner layers do the same in it."""
    if traced != SHALLOW:
        raise NotRepeatedError(f"{traced} layers were traced, {SHALLOW} are needed")
    for run in _runs(blocks):
        if run[0].layer is None:
            continue
        layers = [block.layer for block in run]
        if layers not in (list(range(traced)), list(range(traced - 1, -1, -1))):
            raise NotRepeatedError(f"a pass in the {run[0].phase} visits layers {layers}")
        inner = [_relative(block, names) for block in run if block.layer in (EDGE, EDGE + 1)]
        if inner[0] != inner[1]:
            raise NotRepeatedError(f"layers {EDGE} and {EDGE + 1} differ in the {run[0].phase}")


class _Writer:
    """Write the deeper timeline, renumbering storages as they are born."""

    def __init__(
        self, names: Mapping[int, Name], traced: int, depth: int, kept: frozenset[int], first: int
    ) -> None:
        self.events: list[Event] = []
        self.later = False
        self._kept = kept
        self._first = first  # run of the first step: what is named by an earlier one was loaded
        self._names = names
        self._traced = traced
        self._depth = depth
        self._numbers: dict[Name, int] = {}
        self._count = 0

    def run(self, run: Sequence[Block], optimizer: OptimizerTrace) -> None:
        """Write one pass over the layers, or one block outside them."""
        if run[0].phase == OPTIMIZER:
            self.optimizer(optimizer)
        elif run[0].phase == ZERO:
            self.zero(optimizer)
        elif run[0].layer is None:
            self.outside(run[0])
        else:
            self.layers(run)

    def layers(self, run: Sequence[Block]) -> None:
        """Write one pass, the inner block repeated."""
        by_layer = {block.layer: block for block in run}
        order = range(self._depth) if run[0].layer == 0 else range(self._depth - 1, -1, -1)
        for layer in order:
            self._layer(by_layer[self._source(layer)], layer)

    def outside(self, block: Block) -> None:
        """Write a block outside the layers; what it does to an inner layer it does to all of them."""
        self.events.append(Entered(block.phase, None))
        place = 0
        done: set[Name] = set()
        for event in block.events:
            if isinstance(event, Born):
                self._born(event, Name(block.run, None, place))
                place += 1
            elif isinstance(event, Died | Became):
                name = self._names[event.storage]
                for target in self._targets(block, name, done):
                    self._use(event, target)
            else:
                self.events.append(event)

    def optimizer(self, traced: OptimizerTrace) -> None:
        """Put the optimizer's own timeline in; its state is made in the first step only."""
        self.events.append(Entered(OPTIMIZER, None))
        passing = {event.storage for event in traced.first if isinstance(event, Died)}
        numbers = {}
        for event in traced.first:
            if isinstance(event, Born) and (not self.later or event.storage in passing):
                self._count += 1
                numbers[event.storage] = self._count
                self.events.append(event._replace(storage=self._count))
            elif isinstance(event, Died):
                self.events.append(Died(numbers[event.storage]))

    def zero(self, traced: OptimizerTrace) -> None:
        """Free the gradients of all layers."""
        self.events.append(Entered(ZERO, None))
        for number, layer in zip(traced.gradients, traced.layers, strict=True):
            name = self._names[number]
            for copy in self._copies(name, layer):
                self.events.append(Died(self._numbers.pop(copy)))

    def _layer(self, block: Block, layer: int) -> None:
        self.events.append(Entered(block.phase, layer))
        assert block.layer is not None
        place = 0
        done: set[Name] = set()
        for event in block.events:
            if isinstance(event, Born):
                self._born(event, Name(block.run, layer, place))
                place += 1
            elif isinstance(event, Died | Became):
                name = self._names[event.storage]
                offset = 0 if name.layer is None else name.layer - block.layer
                if name.layer is None or abs(offset) < EDGE or block.layer == EDGE:
                    self._use(event, name if name.layer is None else name._replace(layer=layer + offset))
                else:
                    for target in self._targets(block, name, done):
                        self._use(event, target)
            else:
                self.events.append(event)

    def _born(self, event: Born, name: Name) -> None:
        if self.later and event.storage in self._kept:
            return
        self._count += 1
        self._numbers[name] = self._count
        self.events.append(event._replace(storage=self._count))

    def _use(self, event: Died | Became, name: Name) -> None:
        number = self._numbers.get(name)
        if number is None:
            if self.later and name.run < self._first:
                return
            raise NotRepeatedError(f"{name} is used before it is born")
        if isinstance(event, Died):
            del self._numbers[name]
        self.events.append(event._replace(storage=number))

    def _targets(self, block: Block, name: Name, done: set[Name]) -> list[Name]:
        """Return the storages of the deeper model that a use outside the layers stands for."""
        if name.layer is None:
            return [name]
        source = name._replace(layer=EDGE)
        if name.layer not in (EDGE, EDGE + 1):
            return [name._replace(layer=self._mapped(name.layer))]
        if source in done:
            return []
        used = {self._names[event.storage] for event in block.events if isinstance(event, Died | Became)}
        if name._replace(layer=EDGE + 1) not in used or source not in used:
            raise NotRepeatedError(f"the {block.phase} uses one inner layer and not the other")
        done.add(source)
        return [name._replace(layer=layer) for layer in range(EDGE, self._depth - EDGE)]

    def _source(self, layer: int) -> int:
        """Return the traced layer that a layer of the deeper model copies."""
        if layer < EDGE:
            return layer
        from_end = self._depth - layer
        return self._traced - from_end if from_end <= EDGE else EDGE

    def _mapped(self, layer: int) -> int:
        return layer if layer < EDGE else layer + self._depth - self._traced

    def _copies(self, name: Name, layer: int | None) -> list[Name]:
        """Return the gradients of the deeper model that the one of a parameter in `layer` stands for."""
        if layer is None:
            return self._edge(name)
        if name.layer != layer:
            raise NotRepeatedError("a gradient is born outside its layer")
        if layer == EDGE:
            return [name._replace(layer=copy) for copy in range(EDGE, self._depth - EDGE)]
        return [] if layer == EDGE + 1 else self._edge(name)

    def _edge(self, name: Name) -> list[Name]:
        return [name if name.layer is None else name._replace(layer=self._mapped(name.layer))]


def canonical(timeline: Timeline) -> list[Event]:
    """Number storages by birth and sort rows of deaths, so that equal lives compare equal."""
    numbers: dict[int, int] = defaultdict(lambda: len(numbers))
    written: list[Event] = []
    row: list[Died | Became] = []
    for event in timeline:
        if isinstance(event, Died | Became):
            row.append(event._replace(storage=numbers[event.storage]))
            continue
        written += sorted(row, key=repr)
        row = []
        if isinstance(event, Born):
            written.append(event._replace(storage=numbers[event.storage]))
        elif not isinstance(event, Entered):
            written.append(event)
    return [*written, *sorted(row, key=repr)]
