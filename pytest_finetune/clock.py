"""Where the seconds go: each part of the work counts its own, and not those of a part inside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


def _unheard(_: str) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class Clock:
    """Seconds by what they were spent on; they add up to the time in which anything was counted.

    >>> ticks = iter([0.0, 1.0, 4.0, 9.0])
    >>> clock = Clock(lambda: next(ticks))
    >>> with clock.spent_on("training"):
    ...     with clock.spent_on("checkpoints"):
    ...         pass
    >>> clock.seconds
    {'checkpoints': 3.0, 'training': 6.0}
    """

    now: Callable[[], float] = time.monotonic
    seconds: dict[str, float] = field(default_factory=dict)
    tell: Callable[[str], None] = _unheard
    """Hears the part that begins, and, where one ends, that around it: none is an empty name."""
    _inside: float = 0.0
    _part: str = ""

    @contextmanager
    def spent_on(self, part: str) -> Iterator[None]:
        """Count the block's seconds for `part`, less what is counted inside it."""
        began, before, self._inside = self.now(), self._inside, 0.0
        around, self._part = self._part, part
        self.tell(part)
        try:
            yield
        finally:
            self._part = around
            self.tell(around)
            took = self.now() - began
            self.seconds[part] = self.seconds.get(part, 0.0) + took - self._inside
            self._inside = before + took

    def add(self, counted: Mapping[str, float]) -> None:
        """Take over what another clock counted during the block that is running."""
        for part, seconds in counted.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds
            self._inside += seconds

    def facts(self) -> dict[str, float]:
        """Return what was counted so far, as a record holds it."""
        return {part: round(max(0.0, seconds), 3) for part, seconds in self.seconds.items()}
