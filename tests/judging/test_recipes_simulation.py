"""The simulation behind the interval of the next seed: it draws what it says, and docs hold what it printed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARK = "recipes"
ROOT = Path(__file__).parents[2]
PRINTED = ROOT / "benchmarks" / "results" / "recipes.txt"


def test_arms_have_the_rates_that_were_asked_and_share_the_rows(simulation: ModuleType) -> None:
    drawn = simulation.passes(np.random.default_rng(0), [0.2, 0.7, 0.7], 20_000, 0.8)
    assert drawn.mean(axis=1) == pytest.approx([0.2, 0.7, 0.7], abs=0.02)
    assert 0.5 < np.corrcoef(drawn[1], drawn[2])[0, 1] < 0.8


def test_the_interval_holds_its_level_and_a_choice_on_held_out_rows_does_not(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    for seeds in (3, 8):
        missed = sum(simulation.missed(rng, seeds, 50, (0.5, 0.7), 0.05, 0.2) for _ in range(100))
        assert missed <= 12, seeds
    monkeypatch.setattr(simulation, "ROWS", (200,))
    assert list(simulation.choice(rng, 200))
    assert not simulation.EXCEEDED


def test_a_level_that_is_exceeded_is_noticed(simulation: ModuleType) -> None:
    simulation.check("planted", 60, 400, 0.05)
    simulation.check("as stated", 20, 400, 0.05)
    assert simulation.EXCEEDED == ["planted: 60 of 400, stated 5.0%"]


def test_the_page_holds_what_was_printed() -> None:
    page = (ROOT / "docs" / "decision.md").read_text(encoding="utf-8")
    tables = [line for line in PRINTED.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert len(tables) == 26
    assert [line for line in tables if line not in page] == []
