"""Look for secrets and personal data; a finding says where, what kind and a short hash, never the value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from pytest_finetune.data.catalogue import finding
from pytest_finetune.data.detectors import SECRETS, Hit, scan, short_hash
from pytest_finetune.data.messages import further_texts
from pytest_finetune.data.strict_json import strings_in
from pytest_finetune.errors import FinetuneError

if TYPE_CHECKING:
    from pytest_finetune.data.contract_rules import ContractRules
    from pytest_finetune.data.findings import Finding
    from pytest_finetune.data.rows import Row, Rows

_BATCH: Final = 512
# Presidio's entities that are personal data and that the expressions do not cover better.
_ENTITIES: Final = (
    "PERSON",
    "LOCATION",
    "US_SSN",
    "US_PASSPORT",
    "UK_NHS",
    "MEDICAL_LICENSE",
    "DATE_OF_BIRTH",
)


def check_privacy(contract: ContractRules, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield secrets and personal data in any text of a row, as far as the contract forbids them."""
    forbidden = contract.privacy
    if forbidden.secrets == "allow" and forbidden.personal_data == "allow":
        return
    for rows in (train, held_out):
        for row, text, hit in _hits(rows):
            setting = forbidden.secrets if hit.rule in SECRETS else forbidden.personal_data
            if setting == "forbid":
                read = (
                    f"{hit.name}, {hit.end - hit.start} characters, #{short_hash(text[hit.start : hit.end])}"
                )
                yield finding(hit.rule, read, file=row.file, line=row.line, digest=row.digest)
        if forbidden.deep:
            yield from _deep(rows)


def _hits(rows: Sequence[Row]) -> Iterator[tuple[Row, str, Hit]]:
    """Yield (row, text, hit in the text); a value that stands twice in a row is told once."""
    rest = iter(rows)
    told: set[tuple[int, str]] = set()
    clean: dict[str, bool] = {}
    while batch := list(islice(rest, _BATCH)):
        owners: list[Row] = []
        texts: list[str] = []
        for row in batch:
            # The instruction is mostly one text for all rows: look once whether there is anything to find.
            if row.instruction not in clean:
                clean[row.instruction] = not any(True for _ in scan([row.instruction]))
            own = (
                [row.input, row.output]
                if clean[row.instruction]
                else [row.instruction, row.input, row.output]
            )
            if "\\" in row.output:
                own.append(_unescaped(row.output))
            own += further_texts(row.messages or ())
            own += [json.dumps(row.tools, ensure_ascii=False)] if row.tools else []
            texts += own
            owners += [row] * len(own)
        for index, hit in scan(texts):
            row, text = owners[index], texts[index]
            value = (row.offset, text[hit.start : hit.end])
            if value not in told:
                told.add(value)
                yield row, text, hit


def _unescaped(answer: str) -> str:
    """Return the texts in a JSON answer as they are meant: escapes hide a value from expressions."""
    try:
        return "\n".join(strings_in(json.loads(answer)))
    except (ValueError, RecursionError):
        return ""


def _deep(rows: Rows) -> Iterator[Finding]:
    try:
        from presidio_analyzer import AnalyzerEngine  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        message = (
            "the contract asks for privacy.deep: install presidio-analyzer and a spaCy model, or take it out"
        )
        raise FinetuneError(message) from error
    analyzer: Any = AnalyzerEngine()
    for row in rows:
        for text in (row.input, row.output):
            for entity in analyzer.analyze(
                text=text, language="en", entities=list(_ENTITIES), score_threshold=0.6
            ):
                value = text[entity.start : entity.end]
                read = f"{entity.entity_type} ({entity.score:.2f}), #{short_hash(value)}"
                yield finding("privacy/entity", read, file=row.file, line=row.line, digest=row.digest)
