"""One adapter as several files: what each of them loses against the model as it was trained, and how large it is.

It is measured on development rows. It says which file to judge, and proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_finetune import wording
from pytest_finetune.judging.learning import ALPHA, Advice, Trained, ValuesCurve
from pytest_finetune.judging.statistics.levels import holm
from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.judging.statistics.sample import Interval

_SMALL_LOSS: Final = 0.02
"""A loss up to here is not warned of."""


@dataclass(frozen=True, slots=True)
class Served:
    """One file, or the adapter on its base (`bytes` is None then): its score, and the seconds that a row took."""

    name: str
    bytes: int | None
    seconds: float
    trained: Trained

    @classmethod
    def of_json(cls, tree: Mapping[str, Any]) -> Served:
        """Return what was kept as JSON."""
        return cls(tree["name"], tree["bytes"], tree["seconds"], Trained.of_json(tree["trained"]))


@dataclass(frozen=True, slots=True)
class SizeTable:
    """The adapter on its base first, then its files in the order in which they were named."""

    served: tuple[Served, ...]

    @property
    def gains(self) -> tuple[PairedGain, ...]:
        """The gain of each file over the adapter on its base, row by row: below zero where it loses."""
        return self._curve.gains()[1:]

    @property
    def _curve(self) -> ValuesCurve:
        return ValuesCurve("runtimes", tuple(one.trained for one in self.served))

    @property
    def worse(self) -> tuple[bool, ...]:
        """Whether each file is demonstrably worse, Holm's correction over all of them included."""
        lost = [loss.p for loss in self._curve.losses()[1:]]
        return tuple(holm(lost, [ALPHA] * len(lost)))

    @property
    def advice(self) -> Advice:
        """Which file to judge: the smallest of those that are not demonstrably worse."""
        rows = wording.counted(self.served[0].trained.score.tally.total, "development row")
        rated = zip(self.served[1:], self.gains, self.worse, strict=True)
        kept = [(one, gain) for one, gain, worse in rated if not worse]
        if not kept:
            return Advice(
                f"every file is demonstrably worse than {self.served[0].name} on {rows}",
                "name a larger quantisation (--quants q8_0,f16), or ship the adapter on its base",
            )
        best, gain = min(kept, key=lambda pair: pair[0].bytes or 0)
        at_most = -gain.interval(ALPHA)[0]
        caution = (
            f" (a loss of {wording.points(at_most).lstrip('+')} is not excluded)"
            if at_most > _SMALL_LOSS
            else ""
        )
        return Advice(
            f"{best.name} is the smallest file that is not demonstrably worse than {self.served[0].name} on {rows}: "
            f"{wording.gain_words(gain.gain, gain.interval(ALPHA))}{caution}",
            f"write runtimes: [{{name: shipped, gguf: {best.name}}}, transformers], and judge it by pytest --finetune",
        )

    def as_json(self) -> dict[str, Any]:
        """Return what was found, for programs."""
        others: Sequence[PairedGain | None] = (None, *self.gains)
        return {
            "files": [_facts(one, gain) for one, gain in zip(self.served, others, strict=True)],
            **self.advice._asdict(),
        }


def _facts(one: Served, gain: PairedGain | None) -> dict[str, Any]:
    passed, total = one.trained.score.tally
    span: Interval | None = gain.interval(ALPHA) if gain else None
    return {
        "name": one.name,
        "bytes": one.bytes,
        "seconds": one.seconds,
        "passed": passed,
        "total": total,
        "rate": one.trained.score.rate,
        "interval": list(one.trained.interval),
        "gain": gain.gain if gain else None,
        "gain_interval": list(span) if span else None,
    }
