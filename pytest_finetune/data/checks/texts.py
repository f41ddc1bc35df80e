"""Checks on the text of a row: blank, not in NFC, control characters, the instruction, out of scope."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_finetune.data.catalogue import finding

if TYPE_CHECKING:
    from pytest_finetune.data.contract_rules import ContractRules
    from pytest_finetune.data.findings import Finding
    from pytest_finetune.data.rows import Row, Rows

# C0 and C1 without tab, line feed and carriage return; and marks that reorder or hide text (Trojan Source).
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")


def check_texts(contract: ContractRules, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield rows whose text is blank or damaged, or whose instruction is not the contract's."""
    allowed = frozenset(contract.instructions)
    for rows in (train, held_out):
        for row in rows:
            yield from _text_findings(row)
            if allowed and row.instruction not in allowed and row.shape == "instruction":
                yield _at(
                    row, "data/instruction", _instruction_difference(row.instruction, contract.instructions)
                )


def check_scope(contract: ContractRules, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield rows whose question or answer matches an out-of-scope pattern."""
    patterns = [re.compile(pattern) for pattern in contract.scope_patterns]
    for pattern in patterns:
        for rows in (train, held_out):
            for row in rows:
                for name, text in (("input", row.input), ("answer", row.output)):
                    if pattern.search(text):
                        yield _at(row, "scope/pattern", f"the {name} matches {pattern.pattern!r}")
                        break


def _text_findings(row: Row) -> Iterator[Finding]:
    if not row.output or row.output.isspace():
        yield _at(row, "data/blank-text", "the answer is blank")
    if not row.input.strip() and not row.instruction.strip():
        yield _at(row, "data/blank-text", "the question is blank")
    for name, text in _texts(row):
        # Most text is printable ASCII, for which both questions are answered by one fast call.
        if text.isascii() and text.isprintable():
            continue
        if found := _CONTROL.search(text):
            yield _at(
                row,
                "data/control-character",
                f"U+{ord(found[0]):04X} in the {name}, character {found.start() + 1}",
            )
        if not unicodedata.is_normalized("NFC", text):
            yield _at(row, "data/not-nfc", f"the {name} is not in NFC")


def _texts(row: Row) -> tuple[tuple[str, str], ...]:
    return (("instruction", row.instruction), ("input", row.input), ("answer", row.output))


def _instruction_difference(found: str, allowed: tuple[str, ...]) -> str:
    for one in allowed:
        if " ".join(found.split()).casefold() == " ".join(one.split()).casefold():
            return f"{found!r} differs from the contract's in white space or case"
    return f"{found!r} is not an instruction of the contract"


def _at(row: Row, rule: str, read: str) -> Finding:
    return finding(rule, read, file=row.file, line=row.line, digest=row.digest)
