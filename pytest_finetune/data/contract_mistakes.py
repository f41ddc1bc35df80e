"""Mistakes in a contract that no JSON Schema describes: patterns, schemas, contradictions, unknown rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Any

from pytest_finetune.data.catalogue import RULES
from pytest_finetune.wording import nearest
from pytest_finetune.yamlfile import Json, JsonTree, KeyPath, Problem, YamlFile, dotted


def mistakes(file: YamlFile) -> Iterator[Problem]:
    """Yield what is wrong in a contract that keeps its schema."""
    tree: JsonTree = file.tree
    output: JsonTree = tree.get("output", {})
    text = output.get("format") == "text"
    if "schema" in output:
        if text:
            yield _problem(
                file, ("output", "schema"), "is for format: json; a text answer has a pattern or labels"
            )
        yield from _schema_mistakes(file, output["schema"])
    if "pattern" in output:
        if not text and ("schema" in output or output.get("format") == "json"):
            yield _problem(file, ("output", "pattern"), "is for format: text; a JSON answer has a schema")
        yield from _pattern_mistakes(file, ("output", "pattern"), output["pattern"])
    for number, pattern in enumerate(tree.get("out_of_scope_patterns", ())):
        yield from _pattern_mistakes(file, ("out_of_scope_patterns", number), pattern)
    json_answers = output.get("format") == "json" or "schema" in output
    labels = tree.get("labels")
    if labels is not None and json_answers and not labels.get("field"):
        yield _problem(file, ("labels", "field"), "missing: say where the label stands in the JSON answer")
    if labels is not None and not json_answers and labels.get("field"):
        yield _problem(
            file, ("labels", "field"), "is for format: json; the label of a text answer is the whole answer"
        )
    for number, waiver in enumerate(tree.get("waivers", ())):
        yield from _waiver_mistakes(file, ("waivers", number), waiver)


def _problem(file: YamlFile, path: KeyPath, text: str) -> Problem:
    return Problem(file.line_of(path), dotted(path), text)


def _pattern_mistakes(file: YamlFile, path: KeyPath, pattern: str) -> Iterator[Problem]:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        yield _problem(file, path, f"found {pattern!r}, which is no regular expression: {error}")


def _schema_mistakes(file: YamlFile, answer_schema: Json) -> Iterator[Problem]:
    from jsonschema import Draft202012Validator, SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        Draft202012Validator.check_schema(answer_schema)
    except SchemaError as error:
        path = ("output", "schema", *error.absolute_path)
        yield _problem(file, path, f"is no JSON Schema (2020-12): {error.message}")
        return
    # A registry of our own: the default one would fetch references from the network.
    resolver = Registry[Any]().with_resource("", DRAFT202012.create_resource(answer_schema)).resolver()
    for path, reference in _references(answer_schema, ("output", "schema")):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            text = f"found {reference!r}, which is not in this schema: write the definition into its $defs"
            yield _problem(file, path, text)
            return
    try:
        Draft202012Validator(answer_schema, registry=Registry[Any]()).is_valid(None)
    except RecursionError:
        yield _problem(file, ("output", "schema"), "refers to itself without end")


def _references(part: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield (*path, key), value
            else:
                yield from _references(value, (*path, key))
    elif isinstance(part, list):
        for number, value in enumerate(part):
            yield from _references(value, (*path, number))


def _waiver_mistakes(file: YamlFile, path: KeyPath, waiver: JsonTree) -> Iterator[Problem]:
    rule = waiver["rule"]
    own_prefix = rule.partition("/")[0] in {known.partition("/")[0] for known in RULES}
    # A team's own checks have ids that are not in the table; only what looks like ours can be misspelt.
    if rule not in RULES and ("/" not in rule or own_prefix):
        guess = nearest(rule, list(RULES))
        hint = f"; did you mean {guess!r}?" if guess else ""
        yield _problem(file, (*path, "rule"), f"found {rule!r}, which is no rule{hint}")
    if "line" in waiver and "file" not in waiver:
        yield _problem(file, (*path, "line"), "needs the file that it counts in")
    if "expires" in waiver:
        try:
            date.fromisoformat(waiver["expires"])
        except ValueError:
            yield _problem(
                file, (*path, "expires"), f"found {waiver['expires']!r}, which is no day (YYYY-MM-DD)"
            )
