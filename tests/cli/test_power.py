from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_finetune.judging.statistics.power import chance_to_beat
from pytest_finetune.store import Look, Store

if TYPE_CHECKING:
    from .conftest import World


def test_forty_rows_cannot_show_five_points_and_the_answer_is_no(world: World) -> None:
    ran = world.run("power", "--json")
    assert ran.code == 1
    tree = ran.tree
    assert (tree["rows"], tree["look"], tree["alpha"]) == (40, 1, 0.025)
    assert (tree["keep_possible"], tree["shows_min_gain"]) == (True, False)
    smallest = tree["smallest_gain"]
    assert smallest > tree["min_gain"] == 0.05
    # the printed gain is shown in 80% of runs, a tenth less is not
    assert chance_to_beat(40, smallest, max(0.5, smallest), 0.0, 0.025) >= 0.8
    assert chance_to_beat(40, smallest * 0.9, max(0.5, smallest * 0.9), 0.0, 0.025) < 0.8


def test_the_same_rows_show_a_gain_that_is_large_enough(world: World) -> None:
    ran = world.run("power", "--set", "decision.min_gain=0.6")
    assert ran.code == 0
    assert "a true gain of decision.min_gain can be proven" in ran.out
    assert "stands in the tests and is not seen here" in ran.out


def test_as_many_rows_as_it_asks_for_are_enough(world: World) -> None:
    needed = world.run("power", "--json", "--set", "decision.min_gain=0.3").tree["rows_for_min_gain"]
    rows = [{"instruction": "I", "input": f"case {n}", "expected": "x"} for n in range(needed)]
    world.rows("eval.jsonl", rows)
    assert world.run("power", "--set", "decision.min_gain=0.3").code == 0


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_rows_make_a_keep_impossible(world: World, count: int) -> None:
    world.rows(
        "eval.jsonl", [{"instruction": "I", "input": f"case {n}", "expected": "x"} for n in range(count)]
    )
    ran = world.run("power")
    assert ran.code == 1
    assert "keep impossible" in ran.out
    assert world.run("power", "--json").tree["fewest_rows"] == 6


def test_rows_that_were_looked_at_show_less(world: World) -> None:
    from pytest_finetune.data.rows import read_rows

    fresh = world.run("power", "--json").tree
    rows = frozenset(row.digest for row in read_rows(world.root, "eval.jsonl", "eval"))
    for adapter in ("one", "two"):
        Store(world.root / ".finetune").looks.register(Look(adapter, "answers", "rules", rows))
    worn = world.run("power", "--json").tree
    assert (fresh["look"], worn["look"]) == (1, 3)
    assert worn["alpha"] == pytest.approx(0.05 / 12)
    assert worn["smallest_gain"] > fresh["smallest_gain"]
    kept = world.run("power", "--json", "--set", "decision.spend=false").tree
    assert kept["smallest_gain"] == fresh["smallest_gain"]


def test_asking_is_no_look(world: World) -> None:
    for _ in range(3):
        assert world.run("power", "--json").tree["look"] == 1
    assert not (world.root / ".finetune").exists()


def test_rows_in_groups_are_said_to_show_less(world: World) -> None:
    rows = [{"instruction": "I", "input": f"c {n}", "expected": "x", "group": f"g{n % 4}"} for n in range(12)]
    world.rows("eval.jsonl", rows)
    assert 'rows share 4 groups: a rule with cluster="group" proves less' in world.run("power").out
