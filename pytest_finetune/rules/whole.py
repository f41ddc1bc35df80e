"""Rules about all answers of an arm together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_finetune.rules.labels import at, label_of
from pytest_finetune.rules.making import as_rule, broken, wrong

if TYPE_CHECKING:
    from pytest_finetune.answering.response import Response
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Row

Pairs = list[tuple[str, str | None]]


def macro_f1(field: str | None = None, *, min_rate: float, **thresholds: object) -> Callable[..., None]:
    """Make a corpus rule: the mean F1 over the expected labels, each label weighing the same, is at least `min_rate`.

    An answer without a label counts against the label that was expected.
    """

    def macro_f1(
        responses: Sequence[Response], examples: Sequence[Row], contract: Contract, score: Any
    ) -> None:
        pairs = _pairs(responses, examples, field, contract)
        labels = sorted({wanted for wanted, _ in pairs})
        score(round(sum(_f1(pairs, label) for label in labels) / len(labels), 12))

    return as_rule(macro_f1, {"min_rate": min_rate, **thresholds}, corpus=True)


def _f1(pairs: Pairs, label: str) -> float:
    hits = sum(wanted == given == label for wanted, given in pairs)
    said, due = sum(given == label for _, given in pairs), sum(wanted == label for wanted, _ in pairs)
    return 2 * hits / (said + due) if said + due else 0.0


def no_label_collapse(
    field: str | None = None, *, max_share: float = 0.9, **thresholds: object
) -> Callable[..., None]:
    """Make a corpus rule: no label has more than `max_share` of the answers, unless it is expected that often."""
    if isinstance(max_share, bool) or not 0 < max_share <= 1:
        raise wrong("max_share", max_share, "a share above 0, as in 0.9")

    def no_label_collapse(responses: Sequence[Response], examples: Sequence[Row], contract: Contract) -> None:
        pairs = _pairs(responses, examples, field, contract)
        given = Counter(label for _, label in pairs if label is not None)
        if not given:
            raise AssertionError("no answer carries a label")
        (label, times), due = given.most_common(1)[0], Counter(wanted for wanted, _ in pairs)
        if times > max_share * len(pairs) and due[label] < times:
            raise AssertionError(
                f"{times} of {len(pairs)} answers say {label!r}, which is expected {due[label]} times"
            )

    return as_rule(no_label_collapse, thresholds, corpus=True)


def calibration(
    confidence_field: str, field: str | None = None, *, min_rate: float, bins: int = 10, **thresholds: object
) -> Callable[..., None]:
    """Make a corpus rule: 1 less the expected calibration error is at least `min_rate`.

    Each answer states its confidence, between 0 and 1, in a JSON field. In each of `bins` equal bins the mean
    confidence is compared with the share of right labels (Naeini et al. 2015). An answer without either counts as
    certain and wrong.
    """
    if type(bins) is not int or bins < 2:
        raise wrong("bins", bins, "a whole number of at least 2")

    def calibration(
        responses: Sequence[Response], examples: Sequence[Row], contract: Contract, score: Any
    ) -> None:
        pairs = _pairs(responses, examples, field, contract)
        stated = [_confidence(response.text, confidence_field) for response in responses]
        inside: dict[int, list[tuple[float, bool]]] = {}
        for confidence, (wanted, given) in zip(stated, pairs, strict=True):
            sure, right = (1.0, False) if confidence is None else (confidence, given == wanted)
            inside.setdefault(min(bins - 1, int(sure * bins)), []).append((sure, right))
        apart = sum(abs(sum(sure - right for sure, right in part)) for part in inside.values())
        score(round(max(0.0, 1 - apart / len(pairs)), 12))

    return as_rule(calibration, {"min_rate": min_rate, **thresholds}, corpus=True)


def _confidence(text: str, field: str) -> float | None:
    try:
        value = at(json.loads(text), field)
    except (ValueError, RecursionError):
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= 1 else None


def _pairs(
    responses: Sequence[Response], examples: Sequence[Row], field: str | None, contract: Contract
) -> Pairs:
    """Return the label expected and the label given for each row that expects one."""
    pairs: Pairs = []
    for response, example in zip(responses, examples, strict=True):
        wanted = label_of(example.expected, field, contract)
        if wanted is None:
            raise broken(f"the expected answer of {example.place} carries no label")
        pairs.append((wanted, label_of(response.text, field, contract)))
    return pairs
