"""Checks on conversations and tools: keys that nobody is given, answers without a call, calls that break a schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from pytest_finetune.data.catalogue import finding
from pytest_finetune.data.messages import answers_nothing, not_understood
from pytest_finetune.data.not_written import not_written
from pytest_finetune.data.tool_calls import schema_mistake, schema_problem

if TYPE_CHECKING:
    from pytest_finetune.data.contract_rules import ContractRules
    from pytest_finetune.data.findings import Finding
    from pytest_finetune.data.rows import Row
    from pytest_finetune.data.tokens import Tokenization


def check_conversations(
    contract: ContractRules, train: Iterable[Row], held_out: Iterable[Row]
) -> Iterator[Finding]:
    """Yield what a conversation holds that is not taught or asked, and calls that their own tool would refuse."""
    for rows in (train, held_out):
        for row in rows:
            if row.messages is not None or row.tools:
                yield from _row_findings(row, contract.tokenization)


def _row_findings(row: Row, tokenization: Tokenization | None) -> Iterator[Finding]:
    at = partial(finding, file=row.file, line=row.line, digest=row.digest)
    messages = row.messages or ()
    for read in not_understood(messages):
        yield at("messages/unknown-key", read)
    for read in answers_nothing(messages):
        yield at("messages/tool-answer", read)
    for tool in row.tools:
        if mistake := schema_mistake(tool):
            yield at("tools/schema", mistake)
    for read in _broken_calls(row):
        yield at("tools/arguments", read)
    if tokenization is not None:
        for rule, read in not_written(row, tokenization):
            yield at(rule, read)


def _broken_calls(row: Row) -> Iterator[str]:
    """Yield how calls, those of the answer and those before it, break the tools that the row offers.

    A row that offers none may teach tools that are always the same.
    """
    if row.messages is None:
        yield from (
            f"the call of {call.name!r}: {call.malformed}" for call in row.tool_calls if call.malformed
        )
        return
    offered = {tool["function"]["name"] for tool in row.tools}
    for call in (call["function"] for message in row.messages for call in message.get("tool_calls") or ()):
        name = call["name"]
        if offered and name not in offered:
            yield f"{name!r} is called, and the row offers {', '.join(map(repr, sorted(offered)))}"
        elif problem := schema_problem(name, call["arguments"], row.tools):
            yield f"the arguments of {name!r}: {problem}"
