"""Two answers to one question as one, for a judge who says which of them is better."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_finetune.answering.answers import Answer
from pytest_finetune.answering.response import Response


@dataclass(frozen=True, slots=True)
class Pair(Response):
    """The answer that is judged, shown first, and the one that it is compared with; `text` holds both."""

    @property
    def first(self) -> str:
        """The text of the answer that is judged."""
        return str(json.loads(self.text)[0])

    @property
    def second(self) -> str:
        """The text of the answer that it is compared with."""
        return str(json.loads(self.text)[1])


@dataclass(frozen=True, slots=True)
class PairedAnswer(Answer):
    """An answer with the one that it is compared with; `response` holds both."""


def paired(ours: Mapping[str, Answer], theirs: Mapping[str, Answer]) -> dict[str, PairedAnswer]:
    """Show each of our answers first, the one to the same question second."""
    found = {}
    for row, answer in ours.items():
        both = json.dumps([answer.response, theirs[row].response])
        found[row] = PairedAnswer(**{**dataclasses.asdict(answer), "response": both})
    return found
