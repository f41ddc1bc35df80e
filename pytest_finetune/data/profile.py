"""Describe the rows of a file in numbers: how many, how long, which labels and tags, how much is repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from pytest_finetune.data.tokens import nearest_rank
from pytest_finetune.data.words import shingles, words_of
from pytest_finetune.yamlfile import JsonTree

if TYPE_CHECKING:
    from pytest_finetune.data.contract import Contract
    from pytest_finetune.data.rows import Rows

_BINS: Final = (0, 50, 100, 200, 400, 800, 1600, 3200, 6400)


def profile(rows: Rows, contract: Contract, tokens: Mapping[str, int] | None = None) -> JsonTree:
    """Return the record's ``data.<split>``: JSON values only, no text of a row."""
    labels = Counter(label for row in rows if (label := contract.label_of(row.output)) is not None)
    return {
        "path": rows.path,
        "sha256": rows.sha256,
        "rows": len(rows),
        "shapes": dict(sorted(Counter(row.shape for row in rows).items())),
        "labels": _ordered(labels),
        "tags": _ordered(Counter(tag for row in rows for tag in set(row.tags))),
        "groups": len({row.group for row in rows if row.group is not None}),
        "lengths": {
            "input": lengths([len(row.input) for row in rows]),
            "output": lengths([len(row.output) for row in rows]),
        },
        "distinct_questions": len({(row.instruction, row.input) for row in rows}),
        "distinct_answers": len({row.output for row in rows}),
        "tokens": dict(tokens) if tokens is not None else None,
    }


def overlap(train: Rows, held_out: Rows, size: int = 8) -> JsonTree:
    """Return how many held-out questions share a word n-gram with a training question, and the mean share."""
    known: set[tuple[str, ...]] = set()
    for row in train:
        known |= shingles(words_of(row.input), size)
    shares = []
    for row in held_out:
        grams = shingles(words_of(row.input), size)
        shares.append(len(grams & known) / len(grams) if grams else 0.0)
    touched = sum(share > 0 for share in shares)
    mean = sum(shares) / len(shares) if shares else 0.0
    return {
        "ngram_words": size,
        "held_out_rows": len(shares),
        "touched": touched,
        "mean_share": round(mean, 4),
    }


def lengths(values: Sequence[int]) -> JsonTree:
    """Return minimum, median, 95th percentile and maximum of lengths in characters, and a histogram.

    `bins` are lower bounds; `counts` has one number for each.
    """
    ordered = sorted(values)
    if not ordered:
        return {"min": 0, "p50": 0, "p95": 0, "max": 0, "bins": list(_BINS), "counts": [0] * len(_BINS)}
    counts = [0] * len(_BINS)
    for value in ordered:
        counts[max(index for index, bound in enumerate(_BINS) if bound <= value)] += 1
    return {
        "min": ordered[0],
        "p50": nearest_rank(ordered, 50),
        "p95": nearest_rank(ordered, 95),
        "max": ordered[-1],
        "bins": list(_BINS),
        "counts": counts,
    }


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
