"""The arms as tests see them: their answers, and their scores under the rules that ran."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_finetune.answering.arm_plans import PROMPTED
from pytest_finetune.answering.pairs import Pair, PairedAnswer
from pytest_finetune.answering.response import Response
from pytest_finetune.record.case import score_of

if TYPE_CHECKING:
    from pytest_finetune.answering.answers import Answer
    from pytest_finetune.answering.arm_plans import ArmPlan
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


def view_of(
    name: str,
    plans: Mapping[str, ArmPlan],
    answers: Callable[[str], Mapping[str, Answer]],
    tree: Callable[[], Mapping[str, Any]],
) -> Arm:
    """Return the view of an arm that tests take; a name that is no arm fails the test with those that are."""
    if name not in plans:
        pytest.fail(_no_arm(name, plans), pytrace=False)
    responses = {id_: as_response(answer) for id_, answer in answers(name).items()}
    return Arm(name, plans[name].runtime, responses, partial(_score, tree))


def as_response(answer: Answer) -> Response:
    """Return an answer as rules see it."""
    kind = Pair if isinstance(answer, PairedAnswer) else Response
    return kind(
        text=answer.response,
        tokens=answer.tokens - answer.thinking_tokens,
        seconds=answer.seconds,
        stopped=answer.stopped,
        thinking=answer.thinking,
        thinking_tokens=answer.thinking_tokens,
        raw=answer.written,
    )


def _no_arm(name: str, known: Iterable[str]) -> str:
    if name == PROMPTED:
        return "there is no prompt-only arm: set prompt.few_shot in the experiment"
    return (
        f"there is no arm {name!r}; known: {', '.join(known)}: name another one under arms in the experiment"
    )


def _score(tree: Callable[[], Mapping[str, Any]], arm: str, rule: str) -> Score:
    rules = tree().get("rules", {})
    if rule not in rules:
        known = ", ".join(rules) or "none"
        pytest.fail(f"{arm}[{rule!r}]: there is no rule of that name; known: {known}", pytrace=False)
    outcome = rules[rule].get("outcome")
    if outcome in {None, "not run", "error"}:
        state = "ended as an error" if outcome == "error" else "was not run in this session"
        pytest.fail(f"{arm}[{rule!r}]: the rule {state}, so it has no score", pytrace=False)
    return score_of(tree(), rule, arm)
