"""What an adapter got on the development rows: something is chosen by it, and nothing is proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from pytest_finetune.errors import FinetuneError
from pytest_finetune.judging.scores import Tally


class NothingToChooseOn(FinetuneError):
    """An experiment has no development rows; the message says what to write."""

    def __init__(self, file: str) -> None:
        super().__init__(
            f"{file} has no development rows to choose on: name them in paths.dev_file, or set training rows aside "
            "with split: {dev: 0.1}. Held-out rows judge, and what is chosen on them they can judge no more"
        )


@dataclass(frozen=True, slots=True)
class DevScore:
    """What one adapter got on the development rows: a score a row by the primary rule (None: skipped), and its loss.

    `groups` are those of the rows, in which they count together; `loss` is None where its trainer told none. `adapter`
    and `answers` are keys in the store.
    """

    rule: str
    rows: tuple[str, ...]
    scores: tuple[float | None, ...]
    loss: float | None
    adapter: str
    answers: str
    groups: tuple[str | None, ...] = ()

    @property
    def tally(self) -> Tally:
        """The rows that passed, of those that were not skipped."""
        return Tally.of(self.scores)

    @property
    def rate(self) -> float:
        """The share that passed, or the mean grade; 0 where every row was skipped."""
        return self.tally.rate

    @property
    def rank(self) -> tuple[float, float]:
        """By what adapters are ordered, the best last: the rate, and among equals the lower loss."""
        known = self.loss is not None and isfinite(self.loss)
        return self.rate, -self.loss if known and self.loss is not None else -inf

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON knows it; a loss that is no number is null."""
        loss = self.loss if self.loss is not None and isfinite(self.loss) else None
        passed, total = self.tally
        return {
            "rule": self.rule,
            "passed": passed,
            "total": total,
            "rate": self.rate,
            "loss": loss,
            "rows": list(self.rows),
            "scores": list(self.scores),
            "groups": list(self.groups),
            "adapter": self.adapter,
            "answers": self.answers,
        }

    @classmethod
    def of_json(cls, tree: Mapping[str, Any]) -> DevScore:
        """Return what was kept as JSON."""
        return cls(
            tree["rule"],
            tuple(tree["rows"]),
            tuple(tree["scores"]),
            tree["loss"],
            tree["adapter"],
            tree["answers"],
            tuple(tree["groups"]),
        )
