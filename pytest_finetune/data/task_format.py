"""Whether an answer has the task's format: what a tuned model must not give to a question of another kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_finetune.data.strict_json import StrictParser

if TYPE_CHECKING:
    from pytest_finetune.data.contract import Contract

CONTRACT: Final = "contract"
OUTPUTS: Final = "training outputs"


class TaskFormat(NamedTuple):
    """By what the format is told (the contract, or the training rows' outputs), and the test of an answer."""

    told_by: str
    fits: Callable[[str], bool]


def task_format(contract: Contract, outputs: Iterable[str]) -> TaskFormat:
    """Return the contract's format where it names one, else what the training outputs have in common.

    By the outputs, an answer fits that repeats one of them, or is a JSON object with the keys of one.
    """
    labels = contract.labels
    if contract.output_format == "json" or contract.pattern is not None or (labels and labels.values):
        structured = contract.output_format == "json" and contract.schema is None
        return TaskFormat(CONTRACT, lambda answer: _keeps(contract, answer.strip(), structured=structured))
    known = list(outputs)
    texts = {_squeezed(output) for output in known}
    keys = {found for output in known if (found := _keys(output)) is not None}
    return TaskFormat(OUTPUTS, lambda answer: _squeezed(answer) in texts or _keys(answer) in keys)


def _keeps(contract: Contract, answer: str, *, structured: bool) -> bool:
    """Tell whether an answer keeps the contract; where any JSON will do, a bare number is no sign of the task."""
    if structured and not answer.startswith(("{", "[")):
        return False
    return not contract.problems_of(answer)


def _keys(text: str) -> frozenset[str] | None:
    parsed = StrictParser().parse(text)
    return frozenset(parsed.value) if not parsed.faults and isinstance(parsed.value, dict) else None


def _squeezed(text: str) -> str:
    return " ".join(text.split())
