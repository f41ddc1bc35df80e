"""An arm: one way of answering the held-out prompts, its answers, and its score under each rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_finetune.evaluation.response import Response

if TYPE_CHECKING:
    from pytest_finetune.evaluation.score import Score


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of the comparison; ``arm["rule"]`` is its score under a rule that ran in this session.

    `responses` maps each held-out row's id to the answer, in file order.
    """

    name: str
    runtime: str
    responses: Mapping[str, Response] = field(repr=False)
    score_of: Callable[[str, str], Score] = field(repr=False)

    def __getitem__(self, rule: str) -> Score:
        """Return the score under a rule."""
        return self.score_of(self.name, rule)

    def __iter__(self) -> Iterator[Response]:
        """Iterate over the answers in file order."""
        return iter(self.responses.values())

    def __len__(self) -> int:
        """Return the number of answers."""
        return len(self.responses)
