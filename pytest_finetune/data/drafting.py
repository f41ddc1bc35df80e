"""Draft a data contract from rows: what they have in common, for a person to confirm."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_finetune.data.strict_json import StrictParser

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Row

MOST_LABELS: Final = 50
_FEW: Final = 0.2
"""Distinct values up to this share of the rows are taken for a closed set of labels."""
_TYPES: Final = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
}


class Answers(NamedTuple):
    """What the expected answers are: JSON objects (`objects`), or texts; `label` is the field with a closed set.

    `values` are that set; of texts the set itself, with `label` None. No values: there is no closed set.
    """

    objects: Sequence[Mapping[str, Any]] | None
    label: str | None
    values: Sequence[str]

    def of(self, at: int, text: str) -> str | None:
        """Return the label of one answer by its position and text."""
        if self.objects is None:
            return text.strip() if self.values else None
        found = self.objects[at].get(self.label) if self.label else None
        return found if isinstance(found, str) else None


def look_at(outputs: Sequence[str], label: str | None = None) -> Answers:
    """Find out what the answers have in common; `label` names the field that holds the label."""
    parser = StrictParser()
    parsed = [parser.parse(output) for output in outputs]
    if outputs and all(not one.faults and isinstance(one.value, dict) for one in parsed):
        objects = [one.value for one in parsed if isinstance(one.value, dict)]
        closed = {
            name: found for name in objects[0] if (found := _closed([row.get(name) for row in objects]))
        }
        # Of several closed fields the one with the most values tells most.
        name = label if label in closed else max(closed, key=lambda field: len(closed[field]), default=None)
        return Answers(objects, name, closed[name] if name else ())
    return Answers(None, None, _closed([output.strip() for output in outputs]))


def _closed(values: Sequence[object]) -> list[str]:
    """Return the values, commonest first, when they are few texts that repeat."""
    texts = [value for value in values if isinstance(value, str) and value]
    counts = Counter(texts)
    few = 1 < len(counts) <= min(MOST_LABELS, max(2, _FEW * len(values)))
    return [value for value, _ in counts.most_common()] if few and len(texts) == len(values) else []


def contract_text(task: str, train: Sequence[Row], held_out: Sequence[Row], answers: Answers) -> str:
    """Return the draft as YAML; `# confirm` marks what a person must look at."""
    return "\n".join(_contract(task, train, held_out, answers)) + "\n"


def _contract(task: str, train: Sequence[Row], held_out: Sequence[Row], answers: Answers) -> Iterator[str]:
    yield "# Drafted from the rows: what they have in common. Confirm each line: new rows will be held to it."
    yield f"task: {_plain(task)}"
    yield "version: 1"
    instructions = {row.instruction for row in (*train, *held_out)}
    if len(instructions) == 1 and (only := instructions.pop()):
        yield f"instruction: {_plain(only)}"
    if answers.objects is not None:
        yield "output:"
        yield "  format: json"
        yield f"  schema: {json.dumps(_schema(answers.objects), ensure_ascii=False)}   # confirm"
    if answers.values:
        named = f"field: {_plain(answers.label)}" if answers.label else f"values: {_list(answers.values)}"
        counts = Counter(answers.of(at, row.output) for at, row in enumerate((*train, *held_out)))
        share = max(counts.values()) / max(1, counts.total())
        yield f"labels: {{{named}, min_per_label: 2, max_share: {min(1.0, share + 0.1):.1f}}}   # confirm"
    yield f"rows: {{min_train: {len(train)}, min_eval: {len(held_out)}}}"
    yield "tokens: {max_truncated: 0}"
    yield "leakage: {near_duplicate: 0.8}"
    yield "privacy: {secrets: forbid, personal_data: forbid}   # confirm"


def _schema(objects: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    names = list(dict.fromkeys(name for one in objects for name in one))
    properties: dict[str, Any] = {}
    for name in names:
        values = [one[name] for one in objects if name in one]
        kinds = sorted({_TYPES.get(type(value), "null") for value in values})
        if closed := _closed([one.get(name) for one in objects]):
            properties[name] = {"enum": sorted(closed)}
        else:
            properties[name] = {"type": kinds[0] if len(kinds) == 1 else kinds}
    required = [name for name in names if all(name in one for one in objects)]
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(_plain(value) for value in values)}]"


def _plain(text: str | None) -> str:
    """Write a text as YAML reads it back: as JSON, which is YAML."""
    return json.dumps(text, ensure_ascii=False)
