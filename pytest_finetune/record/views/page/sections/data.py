"""The data: both splits side by side, and what the checks found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from pytest_finetune.record.inputs import DataFacts, Finding, Split
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.remarks import place
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Child, Html, element, join, paragraph, table

_COUNTS: Final[Mapping[str, Callable[[Split], int | None]]] = {
    "tokens, median": lambda split: split.tokens.p50,
    "tokens, 95th percentile": lambda split: split.tokens.p95,
    "tokens, longest": lambda split: split.tokens.max,
    "tokens, truncated": lambda split: split.tokens.truncated,
    "characters asked, median": lambda split: split.lengths["input"].p50,
    "characters asked, longest": lambda split: split.lengths["input"].max,
    "characters answered, median": lambda split: split.lengths["output"].p50,
    "different questions": lambda split: split.distinct_questions,
    "different answers": lambda split: split.distinct_answers,
}
MOST_FINDINGS: Final = 200


def data(experiment: RecordedExperiment) -> Html:
    """Both splits side by side: rows, token lengths, labels, tags; then the findings."""
    known = experiment.data
    if not known:
        return paragraph("missing", "No rows were read in this run.")
    splits = known.splits
    tokens = any(split.tokens for split in splits.values())
    rows: list[list[Child]] = [["rows", *(_count(split.rows) for split in splits.values())]]
    for title, count in _COUNTS.items():
        found = [count(split) for split in splits.values()]
        if tokens if title.startswith("tokens") else any(one is not None for one in found):
            rows.append([title, *map(_count, found)])
    shares = [
        *_share_rows("label", {name: split.labels for name, split in splits.items()}, splits),
        *_share_rows("tag", {name: split.tags for name, split in splits.items()}, splits),
    ]
    head = ["of the rows", *({"train": "training", "eval": "held out"}.get(name, name) for name in splits)]
    profile = element("div", table(head, rows, "Profile of the rows"), _overlap(known.overlap))
    beside = element("div", table(head, shares, "Labels and tags")) if shares else None
    both = element("div", profile, beside, class_="ft-pair")
    return join([both, _findings(experiment.findings, known), _waived(known)])


def _count(number: int | None) -> str:
    return "not counted" if number is None else f"{number:,}"


def _share_rows(
    kind: str, counts: Mapping[str, Mapping[str, int]], splits: Mapping[str, Split]
) -> Iterator[list[Child]]:
    """One row a label or tag, the most frequent first, with its count and share in each split."""

    def rank(name: str) -> tuple[int, str]:
        return -sum(found.get(name, 0) for found in counts.values()), name

    for name in sorted({name for found in counts.values() for name in found}, key=rank):
        shares = (_share(counts[split].get(name, 0), splits[split].rows or 0) for split in splits)
        yield [f"{kind} {name}", *shares]


def _share(count: int, total: int) -> Html:
    share = count / total if total else 0.0
    return join([svg.meter(share), f" {count:,} ({100 * share:.0f}%)"])


def _overlap(overlap: Mapping[str, int]) -> Html | None:
    """Say how much of the held-out questions training has already seen, word by word."""
    touched, rows, words = map(overlap.get, ("touched", "held_out_rows", "ngram_words"))
    if touched is None or rows is None or words is None:
        return None
    of = f"{touched:,} of {rows:,} held-out questions"
    return paragraph("muted", f"{of} share {words} words in a row with a training question.")


def _findings(found: list[Finding], known: DataFacts) -> Html:
    if not found and known.checked is False:
        return paragraph("muted", "The rows were read and not checked in this run.")
    if not found:
        return paragraph("muted", "The checks of data and charter found nothing.")
    shown: list[list[Child]] = [
        [
            join([_severity(one), " ", place(one) if one.file else None]),
            one.read,
            one.why,
            one.fix,
            element("code", one.rule or "unnamed check"),
        ]
        for one in found[:MOST_FINDINGS]
    ]
    grid = table(["where", "read", "why it matters", "fix", "check"], shown, "Findings", "ft-findings")
    more = f"and {len(found) - MOST_FINDINGS} more, all of them in record.json"
    return join([grid, element("p", more) if len(found) > MOST_FINDINGS else None])


def _severity(one: Finding) -> Html:
    if one.severity == "error":
        return element("span", "✕ error", class_="ft-bad-text")
    if one.severity == "note":
        return element("span", "note")
    return element("span", "! warning", class_="ft-warn-text")


def _waived(known: DataFacts) -> Html | None:
    waived = [one if isinstance(one, str) else json.dumps(one, sort_keys=True) for one in known.waived]
    return element("p", element("strong", "Waived by the contract: "), "; ".join(waived)) if waived else None
