"""The contract file: defaults, and mistakes that name file, line, key, what was found and what is allowed."""

from __future__ import annotations

import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune.data.contract import Contract, ContractError, schema

FULL = """\
task: support_ticket_priority_json
version: 1
instruction: Classify the support ticket priority and return strict JSON.
output:
  format: json
  schema: {type: object, required: [priority, reason], additionalProperties: false,
           properties: {priority: {enum: [critical, high, medium, low]},
                        reason: {type: string, minLength: 1}}}
labels: {field: priority, min_per_label: 3, max_share: 0.6}
rows: {min_train: 40, min_eval: 20}
tags: {eval: {borderline: 2, negative: 2}}
tokens: {max_truncated: 0}
leakage: {near_duplicate: 0.8}
privacy: {secrets: forbid, personal_data: forbid}
out_of_scope: [policy questions that need current documents, long retrospectives]
out_of_scope_patterns: ["(?i)according to the (handbook|policy)"]
"""


def load(tmp_path: Path, text: str) -> Contract:
    (tmp_path / "contract.yaml").write_text(text, encoding="utf-8")
    return Contract.load(tmp_path, "contract.yaml", today=date(2026, 6, 1))


def refused(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ContractError) as error:
        load(tmp_path, text)
    return str(error.value).splitlines()


def test_a_full_contract_is_read(tmp_path: Path) -> None:
    contract = load(tmp_path, FULL)
    assert contract.label_field == "priority"
    assert contract.labels is not None
    assert contract.labels.values == ("critical", "high", "medium", "low")
    assert contract.output_format == "json"
    assert contract.min_rows == {"train": 40, "eval": 20}
    assert contract.sha256 == hashlib.sha256(FULL.encode()).hexdigest()
    assert contract.label_of('{"priority": "low", "reason": "x"}') == "low"
    assert contract.label_of("prose") is None


def test_resolved_holds_every_default_and_is_json(tmp_path: Path) -> None:
    resolved = load(tmp_path, "task: t\n").resolved
    assert resolved["leakage"] == {
        "near_duplicate": 0.8,
        "shingle_words": 3,
        "containment": 0.8,
        "ngram_words": 8,
        "within": True,
        "groups": "forbid",
    }
    assert resolved["privacy"]["secrets"] == "forbid"
    assert json.loads(json.dumps(resolved)) == resolved


def test_a_schema_makes_the_answers_json(tmp_path: Path) -> None:
    assert load(tmp_path, "output: {schema: {type: array}}\n").output_format == "json"


def test_the_default_contract_forbids_secrets_and_leaves_personal_data_to_the_owner() -> None:
    contract = Contract.default()
    assert contract.privacy.secrets == "forbid"
    assert contract.privacy.personal_data == "allow"
    assert contract.label_field is None


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("tsk: x\n", 1, "tsk: unknown key; did you mean 'task'?"),
        (
            "task: x\nlabels:\n  min_per_lable: 3\n",
            3,
            "labels.min_per_lable: unknown key; did you mean 'min_per_label'?",
        ),
        ("rows: {min_train: many}\n", 1, "rows.min_train: found 'many' (text), allowed: a whole number"),
        (
            "leakage:\n  near_duplicate: 1.5\n",
            2,
            "leakage.near_duplicate: found 1.5 (number), allowed: at most 1",
        ),
        ("output: {format: jsn}\n", 1, "allowed: json, text; did you mean 'json'?"),
        ("output: {format: text, schema: {}}\n", 1, "output.schema: is for format: json"),
        ("output: {format: json, pattern: x}\n", 1, "output.pattern: is for format: text"),
        (
            "output:\n  format: text\n  pattern: '('\n",
            3,
            "output.pattern: found '(', which is no regular expression",
        ),
        ("out_of_scope_patterns:\n  - ok\n  - '['\n", 3, "which is no regular expression"),
        ("output:\n  schema:\n    type: objekt\n", 3, "is no JSON Schema (2020-12)"),
        ("output:\n  schema:\n    $ref: https://example.com/a.json\n", 3, "which is not in this schema"),
        ("output:\n  schema: {items: {$ref: '#/$defs/none'}}\n", 2, "found '#/$defs/none'"),
        ("output:\n  schema: {$ref: '#'}\n", 2, "refers to itself without end"),
        ("output: {format: json}\nlabels: {max_share: 0.5}\n", 2, "labels.field: missing"),
        ("labels: {field: priority}\n", 1, "labels.field: is for format: json"),
        (
            "waivers: [{rule: data/conflikt, reason: known and accepted}]\n",
            1,
            "did you mean 'data/conflict'?",
        ),
        ("waivers: [{rule: data/conflict}]\n", 1, "waivers[0].reason: missing"),
        ("waivers:\n  - {rule: data/conflict, reason: known and fine, line: 3}\n", 2, "needs the file"),
        (
            "waivers:\n  - {rule: data/conflict, reason: known and fine, expires: 2026-02-31}\n",
            2,
            "which is no day",
        ),
        ("checksums: {data.jsonl: abc}\n", 1, "checksums"),
        ("- a\n", 1, "a contract is a mapping of keys; this file holds list"),
        ("", 1, "this file holds nothing"),
        ("task: [\n", None, "unreadable YAML"),
        ("task:\tpriority\n", None, "a tab stands where YAML takes spaces alone: write spaces"),
        ("task: a\ntask: b\n", 2, "the key stands here again"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(
    tmp_path: Path, text: str, line: int | None, said: str
) -> None:
    (told, *_) = refused(tmp_path, text)
    assert told.startswith("contract.yaml:" if line is None else f"contract.yaml:{line}:")
    assert said in told


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    assert len(refused(tmp_path, "tsk: x\nrows: {min_train: -1}\nversion: none\n")) == 3


def test_a_missing_contract_and_one_outside_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no such contract file"):
        Contract.load(tmp_path, "none.yaml")
    with pytest.raises(ContractError, match="outside the project"):
        Contract.load(tmp_path, "../contract.yaml")


def test_the_shipped_schema_is_a_schema_and_describes_every_section() -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(dict(schema()))
    parts: dict[str, Any] = dict(schema()["properties"])
    assert {"output", "labels", "leakage", "privacy", "waivers"} <= parts.keys()
