"""Checks on labels and tags: closed set, enough of each, none that dominates, one mixture in both splits."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from pytest_finetune.data.catalogue import finding, quoted
from pytest_finetune.wording import counted

if TYPE_CHECKING:
    from pytest_finetune.data.contract_rules import ContractRules, LabelRules
    from pytest_finetune.data.findings import Finding
    from pytest_finetune.data.rows import Row, Rows


def check_labels(contract: ContractRules, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield rows without a known label, and splits whose label table breaks the contract."""
    rules = contract.labels
    if rules is None:
        return
    tables = {}
    for rows in (train, held_out):
        table: Counter[str] = Counter()
        for row in rows:
            label = label_in(contract, row.output)
            if label is not None:
                table[label] += 1
            yield from _row_findings(row, label, rules)
        tables[rows.path] = table
        if not rows.unread:
            yield from _table_findings(rows, table, rules)
    yield from _spelling(tables[train.path] + tables[held_out.path], rules, train)
    yield from _drift(tables[train.path], tables[held_out.path], held_out, rules.drift)


def check_tags(contract: ContractRules, train: Rows, held_out: Rows) -> Iterator[Finding]:
    """Yield tags of which a split has fewer rows than the contract asks for."""
    for rows, split in ((train, "train"), (held_out, "eval")):
        wanted = contract.tags.get(split, {})
        if not wanted or rows.unread:
            continue
        found = Counter(tag for row in rows for tag in set(row.tags))
        for tag, number in wanted.items():
            if found[tag] < number:
                read = f"{found[tag]} rows with the tag {tag!r} (the contract asks for {number})"
                yield finding("tags/too-few", read, file=rows.path)


def label_in(contract: ContractRules, output: str) -> str | None:
    """Return the label of an answer as text; see `Contract.label_of`."""
    if contract.labels is None:
        return None
    if contract.labels.field is None:
        return output.strip() or None
    try:
        part: object = json.loads(output)
    except (ValueError, RecursionError):
        return None
    for key in contract.labels.field.split("."):
        part = part.get(key) if isinstance(part, dict) else None
    return as_label(part)


def as_label(value: object) -> str | None:
    """Return a JSON value as a label: texts as they are, true, false and numbers as JSON writes them."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def spelt_alike(labels: Iterable[str]) -> list[list[str]]:
    """Return the labels that differ in case, white space or the encoding of their characters alone.

    >>> spelt_alike(["high", "low", "High", "LOW ", "none"])
    [['high', 'High'], ['low', 'LOW ']]
    """
    groups: dict[str, list[str]] = {}
    for label in labels:
        key = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
        groups.setdefault(key, []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _spelling(table: Counter[str], rules: LabelRules, rows: Rows) -> Iterator[Finding]:
    known = known_labels(rules)
    for group in spelt_alike(label for label, _ in table.most_common() if not known or label in known):
        counts = " and ".join(f"{quoted(label, 40)} on {counted(table[label], 'row')}" for label in group)
        yield finding("labels/spelling", f"{counts} differ in spelling alone", file=rows.path)


def drift_p_values(train: Mapping[str, int], held_out: Mapping[str, int]) -> dict[str, float]:
    """Return each label's two-sided p-value of Fisher's exact test for equal shares in both splits.

    The values are adjusted for the number of labels (Holm 1979): each is compared with the level as it is.
    """
    total, drawn = sum(train.values()) + sum(held_out.values()), sum(held_out.values())
    labels = sorted({*train, *held_out})
    raw = {
        label: hypergeometric_p(
            held_out.get(label, 0), drawn, train.get(label, 0) + held_out.get(label, 0), total
        )
        for label in labels
    }
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, label in enumerate(sorted(raw, key=lambda name: raw[name])):
        largest = max(largest, min(1.0, raw[label] * (len(raw) - rank)))
        adjusted[label] = largest
    return adjusted


def hypergeometric_p(seen: int, drawn: int, marked: int, total: int) -> float:
    """Return the two-sided p-value of `seen` marked items among `drawn`, when `marked` of `total` are marked.

    All outcomes at most as likely as the one seen are summed (Fisher's two-sided test).

    >>> round(hypergeometric_p(1, 10, 12, 24), 6)
    0.002759
    """
    low, high = max(0, drawn + marked - total), min(drawn, marked)
    if low == high:
        return 1.0
    logs = [_log_choose(marked, k) + _log_choose(total - marked, drawn - k) for k in range(low, high + 1)]
    # Equal probabilities differ in the last digits when they are computed along different ways.
    bound = logs[seen - low] + 1e-7
    norm = _log_choose(total, drawn)
    return min(1.0, math.fsum(math.exp(value - norm) for value in logs if value <= bound))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _row_findings(row: Row, label: str | None, rules: LabelRules) -> Iterator[Finding]:
    if label is None:
        place = f"no label at {rules.field!r}" if rules.field else "no label"
        yield finding("labels/missing", place, file=row.file, line=row.line, digest=row.digest)
    elif rules.values and label not in known_labels(rules):
        allowed = ", ".join(known_labels(rules))
        read = f"{quoted(label, 40)}, allowed: {allowed}"
        yield finding("labels/unknown", read, file=row.file, line=row.line, digest=row.digest)


def _table_findings(rows: Rows, table: Counter[str], rules: LabelRules) -> Iterator[Finding]:
    for label in known_labels(rules) or sorted(table):
        if table[label] < rules.min_per_label:
            wanted = f"(the contract asks for {rules.min_per_label})"
            read = f"{table[label]} rows with the label {quoted(label, 40)} {wanted}"
            yield finding("labels/too-few", read, file=rows.path)
    total = table.total()
    if total and rules.max_share < 1:
        label, number = table.most_common(1)[0]
        if number > rules.max_share * total:
            allowed = f"(the contract allows {rules.max_share:.0%})"
            read = f"{quoted(label, 40)} has {number} of {total} rows, {number / total:.0%} {allowed}"
            yield finding("labels/share", read, file=rows.path)


def _drift(train: Counter[str], held_out: Counter[str], rows: Rows, level: float) -> Iterator[Finding]:
    if not level or not train or not held_out:
        return
    for label, p_value in drift_p_values(train, held_out).items():
        if p_value < level:
            here, there = held_out[label] / held_out.total(), train[label] / train.total()
            shares = f"{there:.1%} of training and {here:.1%} of held-out rows"
            read = f"{quoted(label, 40)} is {shares} (exact p = {p_value:.2g})"
            yield finding("labels/drift", read, file=rows.path)


def known_labels(rules: LabelRules) -> tuple[str, ...]:
    """Return the closed set as labels, empty when it is open."""
    return tuple(label for label in map(as_label, rules.values) if label is not None)
