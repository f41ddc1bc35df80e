"""What is said of recipes, and on how many seeds it rests."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_finetune.record.compare.recipes import compared_recipes, difference
from pytest_finetune.record.model import RecordedExperiment
from pytest_finetune.record.recipes import brief, guards_spread, sentences
from pytest_finetune.record.summary import RunLine, rests_on

ROWS = 40


def run(*counts: int, base: int = 8) -> RecordedExperiment:
    """Return a run whose seeds pass so many of the same rows."""
    scores = {"baseline": [1.0] * base + [0.0] * (ROWS - base)}
    scores |= {f"seed {s}": [1.0] * n + [0.0] * (ROWS - n) for s, n in enumerate(counts)}
    experiment: dict[str, Any] = {
        "name": "e",
        "config": {"decision": {"confidence": 0.95}},
        "arms": {name: {"rules": {}, "outputs": f"outputs/{name}.jsonl"} for name in scores},
        "rules": {"label": {"primary": True, "rows": [f"r{i}" for i in range(ROWS)], "scores": scores}},
    }
    if len(counts) > 1:
        rates = [n / ROWS for n in counts]
        experiment["recipe"] = {
            "seed": 0,
            "says": "seed 0 is judged, the first of the list",
            "seeds": [{"seed": s} for s in range(len(counts))],
            "word": "holds",
            "sentence": "label: it gains",
            "rules": {
                "label": {"base": base / ROWS, "rates": rates, "spread": 0.1, "interval": [0.25, 0.75]},
                "format": {"base": 1.0, "rates": [1.0, 0.625], "spread": 0.375, "interval": None},
            },
        }
    return RecordedExperiment.of(experiment)


def test_seeds_are_no_arms_of_the_verdict_and_their_answers_are_files_of_the_record() -> None:
    one = run(30, 34)
    assert list(one.arms) == ["baseline"]
    assert one.outputs == {"outputs/baseline.jsonl", "outputs/seed 0.jsonl", "outputs/seed 1.jsonl"}


def test_a_recipe_is_told_in_half_a_line_and_whole() -> None:
    one = run(30, 34)
    assert brief(one) == "holds: 2 seeds +55.0 to +65.0 points, the next one +25.0 to +75.0"
    assert guards_spread(one) == "format 37.5 points"
    assert sentences(one) == [
        "the recipe holds: label: it gains",
        "seed 0 is judged, the first of the list",
        "apart by seed: format 37.5 points",
    ]
    assert brief(run(30)) == ""
    assert sentences(run(30)) == [
        "rests on one training: one seed cannot tell a recipe's effect from a seed's (training.seeds)"
    ]


def test_two_recipes_are_compared_with_the_luck_of_both() -> None:
    near, far = run(20, 22, 24), run(21, 23, 25)
    assert compared_recipes(near, far)["says"] == (
        "A rests on 3 seeds and B on 3 seeds: no difference of the recipes is shown, +2.5 points "
        f"[{_ends(near, far)}] under label"
    )
    better = compared_recipes(run(9, 10, 8), run(38, 39, 40))
    assert str(better["says"]).startswith(
        "A rests on 3 seeds and B on 3 seeds: a difference of the recipes, +75.0 points [+"
    )
    same = difference(run(20, 20), run(30, 30))
    assert same is not None
    assert same.interval.low > 0


def _ends(one: RecordedExperiment, other: RecordedExperiment) -> str:
    found = difference(one, other)
    assert found is not None
    assert found.interval.low < 0 < found.interval.high
    return f"{100 * found.interval.low:+.1f}, {100 * found.interval.high:+.1f}"


@pytest.mark.parametrize("counts", [((30,), (34,)), ((30, 31), (34,))])
def test_one_seed_on_either_side_compares_no_recipes(counts: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    found = compared_recipes(run(*counts[0]), run(*counts[1]))
    assert found["gain"] is None
    assert str(found["says"]).endswith(
        "and B on 1 seed: one seed cannot tell a recipe's effect from a seed's; train both with several (training.seeds)"
    )


def test_a_table_of_runs_says_what_runs_of_one_seed_cannot_tell() -> None:
    alone, many = RunLine.of({"gain": 0.1, "seeds": 1}), RunLine.of({"gain": 0.1, "seeds": 3})
    assert rests_on([alone, many]) == ""
    assert rests_on([alone, RunLine.of({"gain": 0.2}), many]) == (
        "2 runs rest on one seed each: one seed cannot tell a recipe's effect from a seed's (training.seeds)"
    )
