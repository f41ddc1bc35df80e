"""The simulation of worthless adapters: its shortcut decides as `decide` does, and the page holds what it printed."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pytest_finetune.judging.decision import decide
from pytest_finetune.judging.scores import tabulate

BENCHMARK = "verdicts"
ROOT = Path(__file__).parents[2]
PRINTED = (ROOT / "benchmarks" / "results" / "verdicts.txt").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "decision.md").read_text(encoding="utf-8")


def test_the_counts_are_decided_as_decide_decides_the_rows(simulation: ModuleType) -> None:
    rng, seen = np.random.default_rng(1), set()
    for n in (10, 30, 60):
        for share in (0.2, 0.5, 0.9):
            adapter = simulation.right_on(share)
            plain = simulation.sessions(rng, 4, n, 4, 1.0, adapter, simulation.right_on(0.2))
            full = simulation.everything_on(rng, 4, n, 3, 0.0, adapter, look=2)
            for found in (plain, full, simulation.under_a_judge(rng, full)):
                for run, kept in enumerate(found.kept()):
                    decision = decide(found.case(run))
                    assert decision.undecided is (found.people is not None and n < 20)
                    assert decision.keep is bool(kept)
                    seen.add(bool(kept))
    assert seen == {True, False}


def test_a_session_holds_what_its_kind_says(simulation: ModuleType) -> None:
    rng = np.random.default_rng(0)
    found = simulation.everything_on(rng, 1, 2000, 4, 0.0, simulation.constant, look=3)
    case = found.case(0)
    table = tabulate(case.rules[0], case.scores["label"])
    assert case.looks == 3
    assert case.opponents == ("prompted", "constrained", "majority")
    assert [rule.name for rule in case.rules] == ["label", "polite", "short"]
    assert table.rate("majority").mean == pytest.approx(0.25, abs=0.04)
    assert table.rate("tuned").mean == pytest.approx(0.25, abs=0.04)
    assert table.rate("baseline").mean == pytest.approx(simulation.UNSTABLE / 4, abs=0.01)
    assert 0 < sum(table.noisy) < 2000 * simulation.UNSTABLE


def test_a_quick_run_prints_every_table_and_keeps_to_what_is_stated(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulation, "SIZES", (10, 20))
    monkeypatch.setattr(simulation, "LABELS", (2, 8))
    assert simulation.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n|---") == 5
    assert "EXCEEDED" not in printed


def test_a_rate_above_the_stated_one_is_noticed_and_chance_is_forgiven(simulation: ModuleType) -> None:
    simulation.check("by chance", 5, 100, 0.025)
    simulation.check("never", 0, 100, 0.025)
    assert simulation.EXCEEDED == []
    simulation.check("too often", 20, 100, 0.025)
    assert simulation.EXCEEDED == ["too often: 20.0% of 100 runs, stated 2.5%"]


def test_the_run_that_is_kept_stayed_within_what_is_stated() -> None:
    assert "600 runs a cell" in PRINTED
    assert "EXCEEDED" not in PRINTED


@pytest.mark.parametrize(
    "heading",
    [
        "| worthless adapter | n=",
        "| worthless, everything on |",
        "| everything on, and a judge |",
        "| the base | the adapter knows |",
    ],
)
def test_the_page_shows_what_was_printed(heading: str) -> None:
    lines = PAGE[PAGE.index(heading) :].split("\n\n")[0].splitlines()
    assert len(lines) > 3
    assert [line for line in lines if line not in PRINTED.splitlines()] == []


@pytest.mark.parametrize(("base", "stated"), [("knows 20%", 3), ("guesses", 10)])
def test_no_loss_that_was_printed_is_larger_than_the_page_states(base: str, stated: int) -> None:
    printed = "\n".join(line for line in PRINTED.splitlines() if line.startswith(f"| {base} |"))
    losses = [int(before) - int(after) for before, after in re.findall(r"(\d+)% to (\d+)%", printed)]
    assert len(losses) == 90
    assert max(losses) <= stated
    assert re.search(rf"costs (up to )?{stated} points", PAGE)
