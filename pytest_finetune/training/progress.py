"""Reckon a training's progress: time left and speed, over the steps done in this process."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_finetune.training.request import Progress


@dataclass(frozen=True, slots=True)
class Meter:
    """Turns counts into `Progress`; `first_step` is what a resumed run had behind it at `started_s`."""

    started_s: float
    first_step: int

    def read(
        self, *, now_s: float, step: int, steps: int, tokens: float, loss: float | None, epoch: float
    ) -> Progress:
        """Return the progress after `step` of `steps`, `tokens` seen by this process.

        The time left is that of the remaining steps at the mean pace of this process.
        """
        seconds = max(0.0, now_s - self.started_s)
        done = step - self.first_step
        left = seconds / done * (steps - step) if done > 0 else 0.0
        speed = tokens / seconds if seconds > 0 and tokens > 0 else None
        return Progress(step, steps, loss, seconds, left, speed, epoch)
