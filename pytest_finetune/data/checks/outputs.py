"""Checks on the answers: one JSON value that keeps schema and key order, or a text that keeps the pattern."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.data.catalogue import finding, quoted
from pytest_finetune.data.checks.labels import known_labels, label_in
from pytest_finetune.data.strict_json import Parsed, StrictParser
from pytest_finetune.yamlfile import Json

if TYPE_CHECKING:
    from jsonschema import ValidationError

    from pytest_finetune.data.contract_rules import ContractRules
    from pytest_finetune.data.findings import Finding
    from pytest_finetune.data.rows import Row, Rows

# Beyond these a schema's own details hide each other.
_ERRORS_A_ROW: Final = 3


def check_outputs(contract: ContractRules, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield answers that are not what the contract promises."""
    if contract.output_format == "json":
        yield from _json_answers(contract, train, held_out)
    elif contract.pattern is not None:
        pattern = re.compile(contract.pattern)
        for rows in (train, held_out):
            for row in rows:
                if pattern.fullmatch(row.output) is None:
                    yield _at(
                        row, "output/pattern", f"{quoted(row.output)} does not match {contract.pattern!r}"
                    )


def _json_answers(contract: ContractRules, train: Rows, held_out: Rows) -> Iterator[Finding]:
    parser = StrictParser()
    explain = schema_errors(contract.schema) if contract.schema is not None else None
    orders: dict[tuple[str, ...], list[Row]] = {}
    for rows in (train, held_out):
        for row in rows:
            parsed = parser.parse(row.output)
            if parsed.faults:
                yield from _faults(row, parsed)
                continue
            if explain is not None:
                for error in explain(parsed.value):
                    yield _at(row, "output/schema", error)
            if contract.stable_keys and type(parsed.value) is dict:
                orders.setdefault(tuple(parsed.value), []).append(row)
    yield from _key_orders(orders)


def answer_problems(contract: ContractRules, answer: str) -> list[str]:
    """Return how one answer breaks the contract; see `Contract.problems_of`."""
    problems: list[str] = []
    if contract.output_format == "json":
        parsed = StrictParser().parse(answer)
        if parsed.faults:
            return [fault.read for fault in parsed.faults]
        if contract.schema is not None:
            problems += _errors_of(json.dumps(contract.schema))(parsed.value)
    elif contract.pattern is not None and re.fullmatch(contract.pattern, answer) is None:
        problems.append(f"does not match {contract.pattern!r}")
    if contract.labels is not None and contract.labels.values:
        label, known = label_in(contract, answer), known_labels(contract.labels)
        if label not in known or (contract.labels.field is None and answer != label):
            problems.append(f"the label is none of {', '.join(known)}")
    return problems


@lru_cache(maxsize=16)
def _errors_of(schema: str) -> Callable[[object], list[str]]:
    return schema_errors(json.loads(schema))


def schema_errors(schema: Json | bool) -> Callable[[object], list[str]]:
    """Return a function that lists how a value breaks the schema, in jsonschema's words.

    A compiled validator screens first, for schemas on which both engines are known to agree; whatever it
    rejects is judged by jsonschema.
    """
    from jsonschema import Draft202012Validator
    from referencing import Registry

    reference = Draft202012Validator(schema, registry=Registry[Any]())
    screen = _screen(schema)

    def errors(value: object) -> list[str]:
        if screen is not None and screen(value):
            return []
        found = sorted(
            reference.iter_errors(value), key=lambda error: [str(part) for part in error.absolute_path]
        )
        return [_said(error) for error in found[:_ERRORS_A_ROW]]

    return errors


def _screen(schema: Json | bool) -> Callable[[object], bool] | None:
    if not engines_agree(schema):
        return None
    try:
        from jsonschema_rs import Draft202012Validator as Compiled

        return Compiled(dict(schema) if isinstance(schema, Mapping) else schema).is_valid
    except (ImportError, ValueError):
        return None


_SAME_IN_BOTH: Final = frozenset(
    {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "$defs"}
    | {"type", "enum", "const"}
    | {"properties", "required", "additionalProperties", "propertyNames", "minProperties", "maxProperties"}
    | {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}
    | {"minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    | {"allOf", "anyOf", "oneOf", "not", "if", "then", "else"}
)


def engines_agree(schema: object) -> bool:
    """Tell whether the schema uses only words on which jsonschema and jsonschema-rs say the same.

    Regular expressions differ in dialect, formats in strictness, references in how they are resolved, and
    multipleOf in its arithmetic.
    """
    if isinstance(schema, bool):
        return True
    if not isinstance(schema, Mapping) or not schema.keys() <= _SAME_IN_BOTH:
        return False
    named = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
    listed = [part for key in ("allOf", "anyOf", "oneOf", "prefixItems") for part in schema.get(key, ())]
    single = [
        schema[key]
        for key in ("additionalProperties", "propertyNames", "items", "not", "if", "then", "else")
        if key in schema
    ]
    return all(engines_agree(part) for part in (*named, *listed, *single))


def _faults(row: Row, parsed: Parsed) -> Iterator[Finding]:
    for kind, read in parsed.faults:
        if kind != "syntax":
            yield _at(row, f"output/{kind}", read)
        elif around := _json_inside(row.output):
            yield _at(row, "output/extra-text", f"text around the JSON: {around}")
        else:
            yield _at(row, "output/not-json", f"{quoted(row.output)}: {read}")


def _json_inside(text: str) -> str | None:
    """Return the text around a JSON object or list that stands in `text`, None when there is none."""
    for start in (position for position in (text.find("{"), text.find("[")) if position >= 0):
        try:
            _, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        return quoted(text[:start].strip() or text[end:].strip())
    return None


def _key_orders(orders: Mapping[tuple[str, ...], list[Row]]) -> Iterator[Finding]:
    by_keys: dict[frozenset[str], list[tuple[str, ...]]] = {}
    for order in orders:
        by_keys.setdefault(frozenset(order), []).append(order)
    for same_keys in by_keys.values():
        if len(same_keys) < 2:
            continue
        common = max(same_keys, key=lambda order: len(orders[order]))
        for order in same_keys:
            if order != common:
                read = f"keys {', '.join(order)}; {len(orders[common])} rows have {', '.join(common)}"
                for row in orders[order]:
                    yield _at(row, "output/key-order", read)


def _said(error: ValidationError) -> str:
    place = ".".join(str(part) for part in error.absolute_path)
    return f"{place}: {error.message}" if place else str(error.message)


def _at(row: Row, rule: str, read: str) -> Finding:
    return finding(rule, read, file=row.file, line=row.line, digest=row.digest)
