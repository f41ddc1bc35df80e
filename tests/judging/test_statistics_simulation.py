"""The simulation behind docs/decision.md: it draws what it says, and it notices a rule that errs too often."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from pytest_finetune.judging.decision import decide
from pytest_finetune.judging.scores import tabulate

BENCHMARK = "statistics"


def test_sessions_have_the_rates_groups_and_noise_that_their_world_names(simulation: ModuleType) -> None:
    world = simulation.World(0.4, 0.7, 0.5, **simulation.ALL)
    case = world.session(np.random.default_rng(0), 4000)
    task = tabulate(case.rules[0], case.scores["task"])
    assert [rule.name for rule in case.rules] == ["task", "guard0", "guard1", "guard2"]
    assert task.rate("baseline").mean == pytest.approx(0.4, abs=0.05)
    assert task.rate("tuned").mean == pytest.approx(0.7, abs=0.05)
    assert task.rate("prompted").mean == pytest.approx(0.5, abs=0.05)
    assert task.rate("tuned").effective == 1000
    assert sum(task.noisy) / 4000 == pytest.approx(0.025, abs=0.01)
    assert decide(case).keep


def test_an_error_rate_above_the_stated_one_is_noticed_and_chance_is_forgiven(simulation: ModuleType) -> None:
    simulation.check("by chance", 5, 100, 0.025)
    simulation.check("never", 0, 100, 0.025)
    assert simulation.EXCEEDED == []
    simulation.check("too often", 20, 100, 0.025)
    assert simulation.EXCEEDED == ["too often in 20.0% of 100 runs, stated 2.5%"]


def test_every_table_prints(simulation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "SIZES", (10,))
    monkeypatch.setattr(
        simulation, "WORLDS", {"useless": ("keep", simulation.World(sizes=(10,), **simulation.GROUPED))}
    )
    printed = {title: list(table) for title, table in simulation._tables(np.random.default_rng(0), 2)}
    assert len(printed) == 10
    assert all(len(lines) >= 3 and lines[1].startswith("|---") for lines in printed.values())
