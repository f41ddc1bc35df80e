"""What the steps of one experiment work with, and the one way in which they record a fact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pytest_finetune.clock import Clock
from pytest_finetune.memory.hardware.detect import HEADROOM
from pytest_finetune.memory.hardware.sizes import parse_share

if TYPE_CHECKING:
    from pluggy import HookRelay

    from pytest_finetune.experiment import Experiment
    from pytest_finetune.fingerprint import Key
    from pytest_finetune.memory.hardware.budget import Budget
    from pytest_finetune.publish.trackers import Tracker
    from pytest_finetune.store import Entry, Store
    from pytest_finetune.suite.device import ChosenDevice
    from pytest_finetune.suite.evidence import Facts
    from pytest_finetune.suite.options import Settings
    from pytest_finetune.training.request import Progress
    from pytest_finetune.yamlfile import JsonTree


class Line(Protocol):
    """Where a step speaks to the user while it works."""

    def show(self, progress: Progress) -> None:
        """Show where the training stands."""

    def begin(self, part: str) -> None:
        """Hear which part of the work begins; an empty name says that none goes on."""

    def note(self, text: str) -> None:
        """Hear how far the part is that goes on."""

    def say(self, text: str) -> None:
        """Print one whole line."""

    def warn(self, text: str) -> None:
        """Print one whole line as a warning."""

    def close(self) -> None:
        """Leave the terminal as the next line expects it."""


class Jobs(Protocol):
    """Where steps run that do not run in this process."""

    longest: Callable[[], int | None]
    """Tells the tokens of the longest training row, by which the card is chosen."""

    def of(self, context: Callable[[], Context], longest: Callable[[], int | None]) -> Jobs:
        """Return where the steps of a trial run: sent alike, for its own settings and rows."""

    @property
    def device(self) -> str | None:
        """The kind of device that the steps are asked on; None for one like that of this machine."""

    @property
    def budget(self) -> Budget | None:
        """The card that the training is held against; None for that of this machine."""

    def made(
        self,
        kind: str,
        key: Key,
        request: Callable[[], JsonTree],
        tell: Callable[[Progress], None] | None,
    ) -> tuple[Entry, bool]:
        """Return what a job makes of a request, verified, and whether it was there before."""


@dataclass(frozen=True, slots=True)
class Context:
    """One experiment, and what its steps share: settings, store, hooks, device, the terminal, and the facts so far.

    `jobs` is None where every step runs in this process.
    """

    experiment: Experiment
    settings: Settings
    store: Store
    hooks: HookRelay
    chosen: ChosenDevice
    line: Line
    facts: Facts
    clock: Clock = field(default_factory=Clock)
    trackers: Sequence[Tracker] = ()
    jobs: Jobs | None = None

    @property
    def device(self) -> str:
        """The name of the device to run on; an xdist worker waits here for a GPU of its own."""
        return self.chosen.name

    @property
    def headroom(self) -> float:
        """The share of the card that stays free; a mistake in it was told before collection."""
        return parse_share(self.settings.headroom) if self.settings.headroom else HEADROOM

    def record(self, part: Sequence[str], value: object) -> None:
        """Record a fact of this experiment."""
        self.facts.record(part, value)
