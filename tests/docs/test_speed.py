"""The table of times in the documentation has the figures that the script printed."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| .+ \| ([\d.]+ s) \| ([\d.]+ s) \| ([\d.]+) \|$", re.MULTILINE)


def test_every_row_of_times_stands_in_the_results() -> None:
    rows = ROW.findall((ROOT / "docs/training.md").read_text(encoding="utf-8"))
    results = (ROOT / "benchmarks/results/speed.txt").read_text(encoding="utf-8")
    printed = [" ".join(line.split()) for line in results.splitlines()]
    assert len(rows) == 6
    for row in rows:
        assert any(f" {' '.join(row)} " in f"{line} " for line in printed), row
