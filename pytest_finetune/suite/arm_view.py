"""An arm: one way of answering the held-out prompts, its answers, and its score under each rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_finetune.answering.response import Response

if TYPE_CHECKING:
    from pytest_finetune.judging.score import Score


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


class Arms(Mapping[str, Arm]):
    """Every arm of an experiment by name; an arm is asked when it is first taken."""

    def __init__(self, names: Iterable[str], ask: Callable[[str], Arm]) -> None:
        self._names = tuple(names)
        self._ask = ask

    def __getitem__(self, name: str) -> Arm:
        """Return an arm; what `ask` raises for a name that is none of them passes through."""
        return self._ask(name)

    def __contains__(self, name: object) -> bool:
        """Tell whether there is an arm of that name, without asking it."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of arms."""
        return len(self._names)

    def __repr__(self) -> str:
        return f"<arms {', '.join(self._names)}>"
