"""Rows are split so that what belongs together stays together, and nothing else does."""

from __future__ import annotations

import pytest

from pytest_finetune.data.rows import Row
from pytest_finetune.data.splitting import split_rows


def row(text: str, line: int, group: str | None = None) -> Row:
    return Row("f.jsonl", line, 0, "instruction", "Say it.", text, "low", None, (), group, {})


@pytest.mark.parametrize("words", [1, 3, 8])
def test_rows_that_share_nothing_are_dealt_out_one_by_one(words: int) -> None:
    texts = [" ".join(f"{letter}{at}" for at in range(words)) for letter in "abcdefghijkl"]
    split = split_rows([row(text, line) for line, text in enumerate(texts, 1)], 0.5, [None] * 12)
    assert (len(split.train), len(split.held_out), split.together) == (6, 6, 0)


def test_a_chain_of_near_duplicates_stays_on_one_side() -> None:
    words = [f"word{at}" for at in range(90)]
    chain = [" ".join([*words[:at], "x", *words[at + 1 :]]) for at in (5, 15, 25)]
    apart = [f"{letter} {letter}{letter} {letter}1" for letter in "abcdefghi"]
    rows = [row(text, line) for line, text in enumerate([*chain, *apart], 1)]
    split = split_rows(rows, 0.5, [None] * 12)
    sides = [{one.line for one in side} & {1, 2, 3} for side in (split.train, split.held_out)]
    assert sorted(map(len, sides)) == [0, 3]
    assert split.together == 1
