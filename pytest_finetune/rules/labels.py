"""Rules that compare an answer with the expected one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.data.checks.labels import as_label
from pytest_finetune.rules.making import as_rule, broken, quoted, wrong
from pytest_finetune.rules.shape import parsed

if TYPE_CHECKING:
    from pytest_finetune.answering.response import Response
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Row

_ABSENT: Final = object()


def exact_match(*, strip: bool = True, case: bool = True, **thresholds: object) -> Callable[..., None]:
    """Make a rule: the answer is the expected text; `strip` ignores white space around it, `case=False` its case."""

    def exact_match(response: Response, example: Row) -> None:
        given, wanted = (_folded(text, strip, case) for text in (response.text, example.expected))
        if given != wanted:
            raise AssertionError(f"said {quoted(response.text)}, expected {quoted(example.expected)}")

    return as_rule(exact_match, thresholds)


def _folded(text: str, strip: bool, case: bool) -> str:
    text = text.strip() if strip else text
    return text if case else text.casefold()


def field_equals(field: str, **thresholds: object) -> Callable[..., None]:
    """Make a rule: a field of the JSON answer (dotted for a deeper one) equals that of the expected answer.

    The answer must be strict JSON. Numbers are equal by value, 1 and 1.0; neither true nor the text "1" is 1.
    """
    _named(field)

    def field_equals(response: Response, example: Row) -> None:
        wanted = at(json.loads(example.expected), field)
        if wanted is _ABSENT:
            raise broken(f"the expected answer of {example.place} has no field {field!r}")
        given = at(parsed(response.text), field)
        if given is _ABSENT:
            raise AssertionError(f"has no field {field!r}")
        if not _same(given, wanted):
            raise AssertionError(f"{field} is {quoted(given)}, expected {quoted(wanted)}")

    return as_rule(field_equals, thresholds)


def _same(given: Any, wanted: Any) -> bool:
    """Tell whether two JSON values are one: numbers by value, and true is no number."""
    if isinstance(given, dict) and isinstance(wanted, dict):
        return given.keys() == wanted.keys() and all(_same(given[key], wanted[key]) for key in wanted)
    if isinstance(given, list) and isinstance(wanted, list):
        return len(given) == len(wanted) and all(map(_same, given, wanted))
    return isinstance(given, bool) == isinstance(wanted, bool) and bool(given == wanted)


def _named(field: str | None) -> None:
    if field is not None and not (isinstance(field, str) and field):
        raise wrong("field", field, "the name of a field, as in 'priority' or 'ticket.priority'")


def at(value: Any, field: str) -> Any:
    """Return what stands at a dotted place of a JSON value, `_ABSENT` when there is no such place."""
    for key in field.split("."):
        if not isinstance(value, dict) or key not in value:
            return _ABSENT
        value = value[key]
    return value


def label_of(text: str, field: str | None, contract: Contract) -> str | None:
    """Return the label of an answer: at `field`, or where the contract says that labels stand; None without one."""
    if field is None:
        if contract.labels is None:
            raise broken("the contract names no labels: give it a labels section, or the rule a field")
        field = contract.labels.field
    if field is None:
        return text.strip() or None
    try:
        found = at(json.loads(text), field)
    except (ValueError, RecursionError):
        return None
    return None if found is _ABSENT else label_name(found)


def label_name(value: Any) -> str | None:
    """Return the name of a JSON value as a label, None where it can be none.

    Numbers have one name by value, 1 and 1.0. A text that reads as a number, true or false is named in quotes, because
    "1" is another label than 1.
    """
    if isinstance(value, str):
        try:
            another = isinstance(json.loads(value), str | bool | int | float)
        except (ValueError, RecursionError):
            another = False
        return json.dumps(value, ensure_ascii=False) if another else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def allowed_label(
    field: str | None = None, labels: Iterable[str | float] | None = None, **thresholds: object
) -> Callable[..., None]:
    """Make a rule: the answer carries one of the allowed labels, by default those of the contract.

    The text "1" is not the number 1: an allowed label is of the type that it is written in.
    """
    _named(field)
    if isinstance(labels, str):
        raise wrong("labels", labels, "a list of labels")
    given_labels = None if labels is None else tuple(labels)

    def allowed_label(response: Response, contract: Contract) -> None:
        allowed = _allowed(given_labels, field, contract)
        label = label_of(response.text, field, contract)
        if label is None:
            raise AssertionError(f"no label in {quoted(response.text)}")
        if label not in allowed:
            raise AssertionError(f"{label!r} is none of {', '.join(allowed)}")

    return as_rule(allowed_label, thresholds)


def _allowed(given: Sequence[Any] | None, field: str | None, contract: Contract) -> tuple[str, ...]:
    """Return the names of the allowed labels; where the whole answer is the label, it is a text."""
    rules = contract.labels
    whole = field is None and rules is not None and rules.field is None
    values = given if given is not None else rules.values if rules is not None else ()
    found = tuple(
        label for value in values if (label := as_label(value) if whole else label_name(value)) is not None
    )
    if not found:
        raise broken(
            "the contract has no closed set of labels: give it labels.values, or the rule labels=[...]"
        )
    return found


def label_agreement(field: str | None = None, **thresholds: object) -> Callable[..., None]:
    """Make a rule: the answer carries the expected answer's label; the record gets the confusion table.

    Labels of different JSON types differ: the text "1" is not the number 1, and stands in quotes in the table.
    """
    _named(field)

    def label_agreement(response: Response, example: Row, contract: Contract, confusion: Any) -> None:
        wanted = label_of(example.expected, field, contract)
        if wanted is None:
            raise broken(f"the expected answer of {example.place} carries no label")
        given = label_of(response.text, field, contract)
        confusion(wanted, given)
        if given is None:
            raise AssertionError(f"no label, expected {wanted!r}: {quoted(response.text)}")
        if given != wanted:
            raise AssertionError(f"said {given!r}, expected {wanted!r}")

    return as_rule(label_agreement, thresholds)
