"""The table of times in the documentation has the figures that the script printed."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| .+ \| ([\d.]+ s) \| ([\d.]+ s) \| ([\d.]+) \|$", re.MULTILINE)


def test_every_row_of_times_stands_in_the_results() -> None:
    rows = ROW.findall((ROOT / "docs/training.md").read_text(encoding="utf-8"))
    printed = [line.split() for line in (ROOT / "benchmarks/results/speed.txt").read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        cells = " ".join(row).split()
        assert any(line[-len(cells) :] == cells for line in printed), row
