"""The data: both splits side by side, and what the checks found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from pytest_finetune.record import reading
from pytest_finetune.record.headline import place
from pytest_finetune.record.reading import Json
from pytest_finetune.record.views.page import svg
from pytest_finetune.record.views.page.html import Child, Html, element, join, table

_TOKENS: Final = {"p50": "median", "p95": "95th percentile", "max": "longest", "truncated": "truncated"}

_PROFILE: Final = {
    "characters asked, median": ("lengths", "input", "p50"),
    "characters asked, longest": ("lengths", "input", "max"),
    "characters answered, median": ("lengths", "output", "p50"),
    "different questions": ("distinct_questions",),
    "different answers": ("distinct_answers",),
}


def data(experiment: Json) -> Html:
    """Both splits side by side: rows, token lengths, labels, tags; then the findings."""
    known = reading.part(experiment, "data")
    if not known:
        return element("p", "No rows were read in this run.", class_="ft-missing")
    profiled = (name for name in known if "rows" in reading.part(known, name))
    splits = sorted(profiled, key=lambda name: (name != "train", name))
    rows: list[list[Child]] = [["rows", *(_count(reading.part(known, split), "rows") for split in splits)]]
    rows += [
        [f"tokens, {title}", *(_count(reading.part(known, split, "tokens"), key) for split in splits)]
        for key, title in _TOKENS.items()
        if any(reading.part(known, split, "tokens") for split in splits)
    ]
    rows += [
        [title, *(_count(reading.part(known, split, *path[:-1]), path[-1]) for split in splits)]
        for title, path in _PROFILE.items()
        if any(reading.part(known, split, *path[:-1]).get(path[-1]) is not None for split in splits)
    ]
    shares = [row for kind in ("label", "tag") for row in _share_rows(known, splits, kind)]
    head = ["of the rows", *({"train": "training", "eval": "held out"}.get(split, split) for split in splits)]
    profile = element("div", table(head, rows, "Profile of the rows"), _overlap(known))
    beside = element("div", table(head, shares, "Labels and tags")) if shares else None
    return join([element("div", profile, beside, class_="ft-pair"), _findings(experiment), _waived(known)])


def _share_rows(known: Json, splits: Sequence[str], kind: str) -> list[list[Child]]:
    """One row a label or tag, the most frequent first, with its count and share in each split."""
    shares = {split: _shares(reading.part(known, split), f"{kind}s") for split in splits}
    nothing = (0, 0.0)

    def rank(name: str) -> tuple[int, str]:
        return (-sum(share.get(name, nothing)[0] for share in shares.values()), name)

    names = sorted({name for share in shares.values() for name in share}, key=rank)
    return [
        [f"{kind} {name}", *(_shared(shares[split].get(name, nothing)) for split in splits)] for name in names
    ]


def _overlap(known: Json) -> Html | None:
    """Say how much of the held-out questions training has already seen, word by word."""
    overlap = reading.part(known, "overlap")
    touched, rows = reading.whole(overlap, "touched"), reading.whole(overlap, "held_out_rows")
    words = reading.whole(overlap, "ngram_words")
    if touched is None or rows is None or words is None:
        return None
    said = (
        f"{touched:,} of {rows:,} held-out questions share {words} words in a row with a training question."
    )
    return element("p", said, class_="ft-muted")


def _count(of: Json, key: str) -> str:
    number = reading.whole(of, key)
    return "not counted" if number is None else f"{number:,}"


def _shares(split: Json, kind: str) -> dict[str, tuple[int, float]]:
    """Count each label or tag of a split, and its share of the rows."""
    total, counts = reading.whole(split, "rows") or 0, reading.part(split, kind)
    return {
        str(name): (count, count / total if total else 0.0)
        for name in counts
        if (count := reading.whole(counts, name)) is not None
    }


def _shared(counted_share: tuple[int, float]) -> Html:
    count, share = counted_share
    return join([svg.meter(share), f" {count:,} ({100 * share:.0f}%)"])


def _findings(experiment: Json) -> Html:
    found = reading.findings(experiment)
    if not found:
        return element("p", "The checks of data and charter found nothing.", class_="ft-muted")
    shown: list[list[Child]] = [
        [
            join([_severity(one), " ", place(one) if one.get("file") else None]),
            reading.text(one, "read"),
            reading.text(one, "why"),
            reading.text(one, "fix"),
            element("code", reading.text(one, "rule", "unnamed check")),
        ]
        for one in found[:200]
    ]
    more = (
        element("p", f"and {len(found) - 200} more, all of them in record.json") if len(found) > 200 else None
    )
    return join(
        [table(["where", "read", "why it matters", "fix", "check"], shown, "Findings", "ft-findings"), more]
    )


def _severity(one: Json) -> Html:
    return (
        element("span", "✕ error", class_="ft-bad-text")
        if one.get("severity") == "error"
        else element("span", "! warning", class_="ft-warn-text")
    )


def _waived(known: Json) -> Html | None:
    waived = [
        one if isinstance(one, str) else json.dumps(one, sort_keys=True)
        for one in reading.listed(known, "waived")
    ]
    return element("p", element("strong", "Waived by the contract: "), "; ".join(waived)) if waived else None
