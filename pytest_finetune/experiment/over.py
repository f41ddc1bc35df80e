"""Settings that are tried: a key of the experiment with a range or a choice of values, as ``--over`` writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pytest_finetune.experiment.records import ExperimentError
from pytest_finetune.yamlfile import YamlError, parse_scalar

_TRIED: Final = ("training", "lora", "prompt", "generation", "base_model", "peft_method", "quantization")
"""What a training or its answers depend on; everything else says on which rows and how it is judged."""
_LOG_FROM: Final = 5.0
"""A range whose ends are further apart than this is searched by its orders of magnitude."""

_AT_AN_END: Final = 0.05
"""A value closer to an end of its range than this share of it lies at that end."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A key and the values that are tried."""

    key: str
    values: tuple[object, ...]

    def __str__(self) -> str:
        return f"{self.key}={','.join(map(str, self.values))}"

    def holds(self, value: object) -> bool:
        """Tell whether a value is one of them."""
        return value in self.values


@dataclass(frozen=True, slots=True)
class Range:
    """A key and the ends of a range; `whole` numbers only, or `log`, by orders of magnitude."""

    key: str
    low: float
    high: float
    whole: bool
    log: bool

    def __str__(self) -> str:
        return f"{self.key}={self.low!r}..{self.high!r}:{'log' if self.log else 'linear'}"

    def holds(self, value: object) -> bool:
        """Tell whether a value lies within the range."""
        return isinstance(value, int if self.whole else int | float) and self.low <= value <= self.high

    def end_near(self, value: float) -> str | None:
        """Name the end of the range, "lower" or "upper", that a value lies close to; None for one between them."""
        scaled = math.log if self.log else float
        share = (scaled(value) - scaled(self.low)) / (scaled(self.high) - scaled(self.low))
        return "lower" if share < _AT_AN_END else "upper" if share > 1 - _AT_AN_END else None


Over = Choice | Range


def parse_over(words: Sequence[str]) -> tuple[Over, ...]:
    """Read ``KEY=LOW..HIGH`` (``:log`` or ``:linear`` may follow) and ``KEY=A,B,C``; ExperimentError names a wrong one.

    >>> [str(one) for one in parse_over(["training.learning_rate=1e-4..1e-3", "lora.r=4,8"])]
    ['training.learning_rate=0.0001..0.001:log', 'lora.r=4,8']
    """
    found = [_over(word) for word in words]
    keys = [one.key for one in found]
    for key in keys:
        if keys.count(key) > 1:
            raise ExperimentError(f"--over {key}: is given twice: write all its values into one")
    return tuple(found)


def _over(word: str) -> Over:
    key, equals, written = (part.strip() for part in word.partition("="))
    if not (key and equals and written):
        raise ExperimentError(
            f"--over {word!r}: write KEY=LOW..HIGH or KEY=A,B,C, as in training.learning_rate=1e-4..1e-3"
        )
    if key.partition(".")[0] not in _TRIED:
        raise ExperimentError(
            f"--over {word!r}: {key} says on which rows or how an adapter is judged, and that is no matter of choice: "
            f"what is tried stands under {', '.join(_TRIED)}"
        )
    if ".." in written:
        return _range(word, key, written)
    values = tuple(_scalar(word, part) for part in written.split(","))
    if len(set(map(repr, values))) < 2:
        raise ExperimentError(
            f"--over {word!r}: one value is no choice: write two or more, as in lora.r=4,8,16"
        )
    return Choice(key, values)


def _range(word: str, key: str, written: str) -> Range:
    ends, _, scale = written.partition(":")
    low, high = (_scalar(word, part) for part in ends.split("..", 1))
    numbers = [end for end in (low, high) if isinstance(end, int | float) and not isinstance(end, bool)]
    if len(numbers) < 2 or not numbers[0] < numbers[1] or not all(map(math.isfinite, numbers)):
        raise ExperimentError(
            f"--over {word!r}: a range goes from a number to a larger one, as in 1e-4..1e-3"
        )
    if scale not in ("", "log", "linear") or (scale == "log" and numbers[0] <= 0):
        raise ExperimentError(
            f"--over {word!r}: after a range stands :log (from a number above zero) or :linear, or nothing"
        )
    whole = all(isinstance(end, int) for end in numbers)
    wide = numbers[0] > 0 and numbers[1] / numbers[0] >= _LOG_FROM and not whole
    return Range(key, numbers[0], numbers[1], whole, scale == "log" or (not scale and wide))


def _scalar(word: str, text: str) -> object:
    try:
        return parse_scalar(text)
    except YamlError as error:
        raise ExperimentError(f"--over {word!r}: {error}") from None
