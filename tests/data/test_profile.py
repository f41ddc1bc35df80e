"""The profile is numbers about a file, as the record holds them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.data.profile import lengths, overlap, profile


def test_a_profile_counts_rows_labels_tags_groups_and_lengths(project: Any, make_row: Any) -> None:
    contract = project.contract("output: {format: text}\nlabels: {values: [high, low]}\n")
    rows = project.train(
        [
            make_row("a" * 60, "low", tags=["x"], group="g"),
            make_row("b", "high", tags=["x", "y"], group="g"),
            make_row("b", "low"),
        ]
    )
    made = profile(rows, contract, {"p50": 3, "p95": 4, "max": 4, "truncated": 0})
    assert made["rows"] == 3
    assert made["labels"] == {"low": 2, "high": 1}
    assert made["tags"] == {"x": 2, "y": 1}
    assert made["groups"] == 1
    assert made["distinct_questions"] == 2
    assert made["lengths"]["input"]["counts"][:3] == [2, 1, 0]
    assert made["tokens"] == {"p50": 3, "p95": 4, "max": 4, "truncated": 0}
    assert json.loads(json.dumps(made)) == made


def test_a_profile_holds_no_text_of_a_row(project: Any, make_row: Any) -> None:
    contract = project.contract("output: {format: text}\n")
    assert "confidential" not in json.dumps(
        profile(project.train([make_row("confidential", "confidential")]), contract)
    )


def test_an_empty_file_has_a_profile(project: Any) -> None:
    made = profile(project.train([]), project.contract("{}"))
    assert made["rows"] == 0
    assert made["lengths"]["input"]["max"] == 0


@given(values=st.lists(st.integers(0, 20_000), min_size=1))
def test_a_histogram_counts_every_length_once(values: list[int]) -> None:
    made = lengths(values)
    assert sum(made["counts"]) == len(values)
    assert made["min"] <= made["p50"] <= made["p95"] <= made["max"]


def test_overlap_is_the_share_of_held_out_sequences_that_were_trained_on(project: Any, make_row: Any) -> None:
    text = "one two three four five six seven eight nine"
    train = project.train([make_row(text)])
    held_out = project.held_out(
        [make_row(text + " ten", key="expected"), make_row("nothing of it", key="expected")]
    )
    assert overlap(train, held_out) == {
        "ngram_words": 8,
        "held_out_rows": 2,
        "touched": 1,
        "mean_share": 0.3333,
    }
