"""Rules about the form of an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pytest_finetune.rules.making import as_rule, broken, quoted, wrong

if TYPE_CHECKING:
    from pytest_finetune.answering.response import Response
    from pytest_finetune.data.contract import Contract


def strict_json(keys: Iterable[str] | None = None, **thresholds: object) -> Callable[..., None]:
    """Make a rule: the answer is exactly one JSON value, with `keys` an object of exactly these keys.

    What a lenient parser swallows fails as well: a key twice, NaN, 1e999, half a character pair, text around it.
    """
    if isinstance(keys, str):
        raise wrong("keys", keys, "a list of names")
    wanted = None if keys is None else tuple(sorted(keys))

    def strict_json(response: Response) -> None:
        value = parsed(response.text)
        if wanted is None:
            return
        if not isinstance(value, dict):
            raise AssertionError(f"not an object: {quoted(response.text)}")
        missing, further = sorted(set(wanted) - set(value)), sorted(set(value) - set(wanted))
        apart = [f"lacks {name!r}" for name in missing] + [f"has {quoted(name)}" for name in further]
        if apart:
            raise AssertionError("; ".join(apart))

    return as_rule(strict_json, thresholds)


def parsed(text: str) -> Any:
    """Return an answer's one JSON value; AssertionError for anything that is not strict JSON."""
    from pytest_finetune.data.strict_json import StrictParser

    found = StrictParser().parse(text)
    if found.faults:
        raise AssertionError(f"not strict JSON: {found.faults[0].read}: {quoted(text)}")
    return found.value


def output_schema(schema: Mapping[str, Any] | None = None, **thresholds: object) -> Callable[..., None]:
    """Make a rule: the answer keeps the contract's output section, or the JSON Schema given here."""
    if schema is None:

        def keeps_contract(response: Response, contract: Contract) -> None:
            if contract.output_format is None and contract.schema is None and contract.pattern is None:
                raise broken("the contract has no output section: give it one, or output_schema a schema")
            problems = contract.problems_of(response.text)
            if problems:
                raise AssertionError(problems[0])

        return as_rule(keeps_contract, thresholds)
    text = json.dumps(schema, sort_keys=True)

    def keeps_schema(response: Response) -> None:
        problems = _errors_of(text)(parsed(response.text))
        if problems:
            raise AssertionError(problems[0])

    return as_rule(keeps_schema, thresholds)


@lru_cache(maxsize=16)
def _errors_of(schema: str) -> Callable[[Any], list[str]]:
    from pytest_finetune.data.checks.outputs import schema_errors

    return schema_errors(json.loads(schema))


def no_prose_around_json(**thresholds: object) -> Callable[..., None]:
    """Make a rule: nothing stands before or after the JSON object or list: no sentence, no code fence.

    What is inside may be broken; `strict_json` asks for more.
    """

    def no_prose_around_json(response: Response) -> None:
        text = response.text.strip()
        starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
        if not starts:
            raise AssertionError(f"no JSON object or list at all: {quoted(text)}")
        end = max(text.rfind("}"), text.rfind("]")) + 1
        for word, around in (("before", text[: min(starts)]), ("after", text[end:] if end else "")):
            if around:
                raise AssertionError(f"text {word} the JSON: {quoted(around.strip())}")

    return as_rule(no_prose_around_json, thresholds)


def matches_pattern(pattern: str, *, flags: int = 0, **thresholds: object) -> Callable[..., None]:
    """Make a rule: the whole answer, without white space around it, matches a regular expression."""
    try:
        compiled = re.compile(pattern, flags)
    except re.error as error:
        raise wrong("pattern", pattern, f"a regular expression ({error})") from None

    def matches_pattern(response: Response) -> None:
        if compiled.fullmatch(response.text.strip()) is None:
            raise AssertionError(f"does not match {compiled.pattern!r}: {quoted(response.text)}")

    return as_rule(matches_pattern, thresholds)
