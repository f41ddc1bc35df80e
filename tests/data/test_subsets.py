"""Nested parts of the training rows: each within the larger one, labels in their shares, groups whole."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.data.rows import Rows, read_rows
from pytest_finetune.data.subsets import nested_part


def read(folder: Path, count: int, groups: int = 0) -> Rows:
    lines = [
        {
            "instruction": "label it",
            "input": f"ticket {at}",
            "output": "rare" if at % 8 == 0 else "common",
            **({"group": f"g{at % groups}"} if groups else {}),
        }
        for at in range(count)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_rows(folder, "train.jsonl", "train")


def names(rows: Rows) -> set[str]:
    return {row.input for row in rows}


def test_parts_are_nested_and_hold_the_labels_in_their_shares(tmp_path: Path) -> None:
    rows = read(tmp_path, 160)
    parts = [nested_part(rows, share, str, seed=3) for share in (0.125, 0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [20, 40, 80, 160]
    assert all(names(small) < names(large) for small, large in itertools.pairwise(parts))
    for part in parts:
        assert abs(Counter(row.output for row in part)["rare"] - len(part) / 8) <= 1
    assert [row.line for row in parts[1]] == sorted(row.line for row in parts[1])


def test_groups_stay_together(tmp_path: Path) -> None:
    rows = read(tmp_path, 120, groups=20)
    part = nested_part(rows, 0.5, str, seed=0)
    whole = {group for group, count in Counter(row.group for row in part).items() if count == 6}
    assert whole == {row.group for row in part}


def test_a_part_hangs_on_what_rows_say_and_on_the_seed(tmp_path: Path) -> None:
    rows = read(tmp_path, 64)
    part = names(nested_part(rows, 0.25, str, seed=0))
    assert names(nested_part(rows.only(reversed(list(rows))), 0.25, str, seed=0)) == part
    assert names(nested_part(rows, 0.25, str, seed=1)) != part


@given(small=st.floats(0.01, 1), large=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_of_two_shares_the_smaller_lies_within_the_larger(
    tmp_path_factory: object, small: float, large: float, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("rows", numbered=True)  # type: ignore[attr-defined]
    rows = read(folder, 30, groups=11)
    small, large = sorted((small, large))
    assert names(nested_part(rows, small, str, seed)) <= names(nested_part(rows, large, str, seed))
