"""Rules that compare an answer with the expected one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

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

    The answer must be strict JSON, and true is not 1.
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
    return json.dumps(given, sort_keys=True) == json.dumps(wanted, sort_keys=True)


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
        return contract.label_of(text)
    from pytest_finetune.data.checks.labels import as_label

    try:
        found = at(json.loads(text), field)
    except (ValueError, RecursionError):
        return None
    return None if found is _ABSENT else as_label(found)


def allowed_label(
    field: str | None = None, labels: Iterable[str] | None = None, **thresholds: object
) -> Callable[..., None]:
    """Make a rule: the answer carries one of the allowed labels, by default those of the contract."""
    _named(field)
    if isinstance(labels, str):
        raise wrong("labels", labels, "a list of labels")
    given_labels = None if labels is None else tuple(labels)

    def allowed_label(response: Response, contract: Contract) -> None:
        allowed = given_labels if given_labels is not None else _contract_labels(contract)
        label = label_of(response.text, field, contract)
        if label is None:
            raise AssertionError(f"no label in {quoted(response.text)}")
        if label not in allowed:
            raise AssertionError(f"{label!r} is none of {', '.join(allowed)}")

    return as_rule(allowed_label, thresholds)


def _contract_labels(contract: Contract) -> tuple[str, ...]:
    from pytest_finetune.data.checks.labels import as_label

    values = contract.labels.values if contract.labels is not None else ()
    found = tuple(label for value in values if (label := as_label(value)) is not None)
    if not found:
        raise broken(
            "the contract has no closed set of labels: give it labels.values, or the rule labels=[...]"
        )
    return found


def label_agreement(field: str | None = None, **thresholds: object) -> Callable[..., None]:
    """Make a rule: the answer carries the expected answer's label; the record gets the confusion table."""
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
