"""What a data contract asks of rows, as frozen records: the checks read these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Protocol

from pytest_finetune.data.findings import Finding, Waiver
from pytest_finetune.data.lines import MAX_LINE_BYTES

if TYPE_CHECKING:
    from pytest_finetune.data.rows import Rows
    from pytest_finetune.data.tokens import Tokenization
    from pytest_finetune.yamlfile import Json


class DataCheck(Protocol):
    """A check that a team adds: its findings stand beside the built-in ones, under ids of its own."""

    def __call__(self, train: Rows, held_out: Rows, /) -> Iterable[Finding]:
        """Return what breaks the rule; an empty iterable when all holds."""
        ...


@dataclass(frozen=True, slots=True)
class LabelRules:
    """What labels must be; `values` is the closed set, empty when it is open."""

    field: str | None = None
    values: tuple[object, ...] = ()
    min_per_label: int = 0
    max_share: float = 1.0
    drift: float = 0.001


@dataclass(frozen=True, slots=True)
class LeakageRules:
    """When two questions count as one; sizes in words."""

    near_duplicate: float | None = 0.8
    shingle_words: int = 3
    containment: float | None = 0.8
    ngram_words: int = 8
    within: bool = True
    groups: str = "forbid"


@dataclass(frozen=True, slots=True)
class PrivacyRules:
    """What must not stand in a row."""

    secrets: str = "forbid"
    personal_data: str = "forbid"
    deep: bool = False


@dataclass(frozen=True, slots=True)
class ContractRules:
    """What rows must be; everything that the file leaves out has its default in `resolved`."""

    file: str | None
    sha256: str | None
    instructions: tuple[str, ...] = ()
    output_format: str | None = None
    schema: Json | bool | None = None
    pattern: str | None = None
    stable_keys: bool = True
    labels: LabelRules | None = None
    min_rows: Mapping[str, int] = field(default_factory=lambda: {"train": 1, "eval": 1})
    max_line_bytes: int = MAX_LINE_BYTES
    tags: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    max_truncated: int = 0
    leakage: LeakageRules = field(default_factory=LeakageRules)
    privacy: PrivacyRules = field(default_factory=PrivacyRules)
    scope_patterns: tuple[str, ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)
    waivers: tuple[Waiver, ...] = ()
    resolved: Json = field(default_factory=dict, repr=False)
    today: date = date.max
    extra_checks: tuple[DataCheck, ...] = ()
    tokenization: Tokenization | None = None

    @property
    def label_field(self) -> str | None:
        """Return where the label stands in a JSON answer (dotted), None when no such place is named."""
        return self.labels.field if self.labels else None

    def out_of_scope(self, text: str) -> bool:
        """Tell whether a text matches an out-of-scope pattern."""
        return any(re.search(pattern, text) for pattern in self.scope_patterns)
