"""Hypothesis strategies for your tests: rows and answers of a contract, broken answers, changed questions.

::

    CONTRACT = Contract.load(Path("."), "data/contract.yaml")

    @given(answer=outputs(CONTRACT))
    def test_our_parser_takes_every_valid_answer(answer):
        parse_priority(answer)

    @given(answer=broken_outputs(CONTRACT))
    def test_our_parser_refuses_every_broken_answer(answer):
        with pytest.raises(BadAnswer):
            parse_priority(answer)

Every valid answer was judged by jsonschema, and so was every broken one.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pytest_finetune.data.detectors import find
from pytest_finetune.data.perturbations import KINDS, perturb
from pytest_finetune.strategies.json_values import UnsupportedSchema, values

if TYPE_CHECKING:
    from pytest_finetune.data.contract import Contract

__all__ = ["Perturbed", "UnsupportedSchema", "broken_outputs", "outputs", "perturbations", "rows"]

_WORDS = [
    "the",
    "a",
    "one",
    "our",
    "every",
    "page",
    "invoice",
    "login",
    "printer",
    "report",
    "server",
    "customer",
    "team",
    "since",
    "after",
    "before",
    "shows",
    "fails",
    "loads",
    "slowly",
    "twice",
    "again",
    "empty",
    "wrong",
    "blue",
    "late",
    "today",
    "mobile",
    "payment",
    "search",
    "error",
    "and",
    "with",
    "without",
    "cannot",
    "does",
    "not",
    "open",
]


class Perturbed(NamedTuple):
    """A changed text and the kind of change."""

    text: str
    kind: str


def outputs(contract: Contract) -> SearchStrategy[str]:
    """Answers that keep the contract: JSON texts of its schema, labels of its set, or texts of its pattern.

    UnsupportedSchema names the word of a schema that no strategy is known for.
    """
    if contract.output_format == "json":
        made: SearchStrategy[str] = values(_answer_schema(contract)).map(_json_text)
    elif contract.labels is not None and contract.labels.values:
        made = st.sampled_from([str(value) for value in contract.labels.values])
    elif contract.pattern is not None:
        made = st.from_regex(contract.pattern, fullmatch=True)
    else:
        made = _sentences()
    return made.filter(lambda answer: not contract.problems_of(answer))


def broken_outputs(contract: Contract) -> SearchStrategy[str]:
    """Answers that break the contract, each one change from a valid one; ValueError when all are valid."""
    if contract.output_format == "json":
        valid = outputs(contract)
        made = valid.flatmap(_spoilt_text)
        if contract.schema not in (None, True, {}):
            made |= valid.flatmap(_spoilt_value)
    elif contract.pattern is None and not (contract.labels and contract.labels.values):
        raise ValueError("the contract takes any text for an answer: nothing can break it")
    else:
        made = outputs(contract).flatmap(_spoilt_label)
    return made.filter(lambda answer: bool(contract.problems_of(answer)))


def rows(contract: Contract, *, held_out: bool = False) -> SearchStrategy[dict[str, Any]]:
    """Rows that keep what the contract says of one row; held-out ones carry ``expected``."""
    instruction = st.sampled_from(contract.instructions) if contract.instructions else _sentences()
    tags = sorted(contract.tags.get("eval" if held_out else "train", {}))
    parts: dict[str, SearchStrategy[Any]] = {
        "instruction": instruction,
        "input": _sentences().filter(lambda text: not contract.out_of_scope(text) and not find(text)),
        "expected" if held_out else "output": outputs(contract).filter(_clean),
    }
    optional = {"tags": st.lists(st.sampled_from(tags), unique=True)} if tags else {}
    return st.fixed_dictionaries(parts, optional=optional)


def perturbations(text: str, *, kinds: Collection[str] = tuple(KINDS)) -> SearchStrategy[Perturbed]:
    """Changed versions of a question whose answer should stay; see `pytest_finetune.data.perturbations`.

    ValueError when a kind is unknown, or when none of the kinds can change this text.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"unknown kinds of perturbation {unknown}; known: {', '.join(KINDS)}")
    able = [kind for kind in kinds if any(perturb(text, kind, seed) != text for seed in range(8))]
    if not able:
        raise ValueError(f"none of {', '.join(kinds)} can change {text[:60]!r}")
    drawn = st.tuples(st.sampled_from(able), st.integers(0, 2**32 - 1))
    changed = drawn.map(lambda pair: Perturbed(perturb(text, *pair), pair[0]))
    return changed.filter(lambda made: made.text != text)


def _answer_schema(contract: Contract) -> Any:
    return True if contract.schema is None else contract.schema


def _clean(answer: str) -> bool:
    """Tell whether a row may have this answer: no secret, and no characters in another form than NFC."""
    return not find(answer) and unicodedata.is_normalized("NFC", answer)


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _sentences() -> SearchStrategy[str]:
    words = st.lists(st.sampled_from(_WORDS), min_size=4, max_size=16)
    return words.map(lambda drawn: f"{' '.join(drawn).capitalize()}.")


def _spoilt_text(answer: str) -> SearchStrategy[str]:
    """What models do around JSON: talk, fence, stop early, say it twice, write Python."""
    spoilt = [
        f"Sure, here is the answer: {answer}",
        f"{answer} Let me know if you need more!",
        f"```json\n{answer}\n```",
        f"{answer}{answer}",
        f"{answer[:-1]}",
        f"{answer[:-1]},{answer[-1]}",
        repr(json.loads(answer)),
        json.dumps(answer),
        "I am not sure about this one.",
        "",
    ]
    value = json.loads(answer)
    if isinstance(value, dict) and value:
        key = json.dumps(next(iter(value)))
        spoilt.append(f"{{{key}: null, {answer[1:]}")
        spoilt.append(_json_text({**value, next(iter(value)): float("nan")}))
    return st.sampled_from(spoilt)


def _spoilt_value(answer: str) -> SearchStrategy[str]:
    """What models do inside JSON: other keys, other types, other labels, nothing."""
    value = json.loads(answer)
    spoilt: list[Any] = [None, [value], {"answer": value}, "", [], {}, 0, True]
    if isinstance(value, dict):
        for key, part in value.items():
            spoilt.append({name: other for name, other in value.items() if name != key})
            spoilt.extend({**value, key: changed} for changed in _other_values(part))
        spoilt.append({**value, "confidence": 0.9})
    else:
        spoilt.extend(_other_values(value))
    return st.sampled_from([_json_text(changed) for changed in spoilt])


def _other_values(part: Any) -> list[Any]:
    others: list[Any] = [None, "", [], {}, [part], -1, 10**9, 0.5, "unknown"]
    if isinstance(part, str):
        others += [part.upper(), f"{part}.", f" {part}", part * 50]
    if isinstance(part, int | float):
        others += [str(part), -part - 1]
    if isinstance(part, Mapping):
        others += [{**part, "note": "x"}, dict.fromkeys(part)]
    if isinstance(part, list):
        others += [part * 50, [None, *part]]
    return others


def _spoilt_label(label: str) -> SearchStrategy[str]:
    return st.sampled_from(
        [
            label.upper(),
            label.capitalize(),
            f"{label}.",
            f"The answer is {label}.",
            f"{label}\n{label}",
            f"'{label}'",
            "",
            " ",
            f"{label} or something else",
            label[:-1],
            "unknown",
        ]
    )
