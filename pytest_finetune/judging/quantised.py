"""One adapter as several files: what each of them loses against the model as it was trained, and how large it is.

It is measured on development rows. It says which file to judge, and proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pytest_finetune import wording
from pytest_finetune.judging.learning import ALPHA, Advice, Changed, Trained, ValuesCurve
from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.judging.statistics.sample import Interval

PROVES_NOTHING: Final = "this says which file to judge and proves nothing"
_SMALL_LOSS: Final = 0.02
"""A loss up to here is not warned of."""


@dataclass(frozen=True, slots=True)
class Served:
    """One file, or the adapter on its base (`bytes` is None then): its score, and the seconds that a row took.

    `alike` counts the answers whose text is that of the adapter on its base.
    """

    name: str
    bytes: int | None
    seconds: float
    alike: int
    trained: Trained

    @classmethod
    def of_json(cls, tree: Mapping[str, Any]) -> Served:
        """Return what was kept as JSON."""
        trained = Trained.of_json(tree["trained"])
        return cls(tree["name"], tree["bytes"], tree["seconds"], tree["alike"], trained)


class Against(NamedTuple):
    """How a file compares with the adapter on its base, row by row; below zero the gain is a loss."""

    gain: PairedGain
    changed: Changed

    @property
    def interval(self) -> Interval:
        """The interval of the gain."""
        return self.gain.interval(ALPHA)

    @property
    def worse(self) -> bool:
        """Whether a loss is demonstrated: the interval lies below zero, as it does where the exact test rejects.

        However many files are compared, nothing is corrected for them, as for a guard: a file that is passed over
        wrongly costs bytes, one that is taken wrongly costs answers.
        """
        return self.interval.high < 0


@dataclass(frozen=True, slots=True)
class SizeTable:
    """The adapter on its base first, then its files in the order in which they were named."""

    served: tuple[Served, ...]

    @property
    def against(self) -> tuple[Against, ...]:
        """How each file compares."""
        curve = ValuesCurve("runtimes", tuple(one.trained for one in self.served))
        return tuple(map(Against, curve.gains()[1:], curve.changed()[1:]))

    @property
    def rows(self) -> tuple[tuple[Served, Against | None], ...]:
        """Everything that answered; the adapter on its base is compared with nothing."""
        return tuple(zip(self.served, (None, *self.against), strict=True))

    @property
    def advice(self) -> Advice:
        """Which file to judge: the smallest of those that are not demonstrably worse."""
        rows = wording.counted(self.served[0].trained.score.tally.total, "development row")
        kept = [(one, against) for one, against in self.rows if against is not None and not against.worse]
        if not kept:
            return Advice(
                f"every file is demonstrably worse than {self.served[0].name} on {rows}",
                "name a larger quantisation (--quants q8_0,f16), or ship the adapter on its base",
            )
        best, against = min(kept, key=lambda pair: pair[0].bytes or 0)
        at_most = -against.interval.low
        caution = (
            f" (a loss of {wording.points(at_most).lstrip('+')} is not excluded)"
            if at_most > _SMALL_LOSS
            else ""
        )
        return Advice(
            f"{best.name} is the smallest file that is not demonstrably worse than {self.served[0].name} on {rows}: "
            f"{wording.gain_words(against.gain.gain, against.interval)}{caution}",
            f"write runtimes: [{{name: shipped, gguf: {best.name}}}, transformers], and judge it by pytest --finetune",
        )

    def as_json(self) -> dict[str, Any]:
        """Return what was found, for programs."""
        return {"files": [_facts(one, against) for one, against in self.rows], **self.advice._asdict()}


def _facts(one: Served, against: Against | None) -> dict[str, Any]:
    passed, total = one.trained.score.tally
    return {
        "name": one.name,
        "bytes": one.bytes,
        "seconds": one.seconds,
        "passed": passed,
        "total": total,
        "rate": one.trained.score.rate,
        "interval": list(one.trained.interval),
        "gain": against and against.gain.gain,
        "gain_interval": against and list(against.interval),
        "broken": against and against.changed.broken,
        "mended": against and against.changed.mended,
        "demonstrably_worse": against and against.worse,
        "texts_alike": one.alike,
    }
