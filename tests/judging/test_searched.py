"""What is said of a search: which trial won and by what, what came of the others, and what it proves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_finetune.experiment.over import parse_over
from pytest_finetune.judging.development import DevScore
from pytest_finetune.judging.learning import Trained
from pytest_finetune.judging.searched import COMPLETE, FAILED, PRUNED, Searched, SearchTrial

KEY = "training.learning_rate"
Got = tuple[int, float | None] | str
"""Rows passed of 40, and the loss; or why there is neither."""


def searched(*trials: Got) -> Searched:
    overs = parse_over([f"{KEY}=1e-4..1e-2"])
    return Searched(overs, tuple(trial(number, got) for number, got in enumerate(trials, start=1)))


def trial(number: int, got: Got) -> SearchTrial:
    values = {KEY: number * 1e-4}
    if isinstance(got, str):
        return SearchTrial(number, values, PRUNED if "no better" in got else FAILED, got, None)
    passed, loss = got
    rows = tuple(map(str, range(40)))
    scores: Sequence[float] = [1.0] * passed + [0.0] * (40 - passed)
    score = DevScore("label", rows, tuple(scores), loss, f"adapter {number}", f"answers {number}")
    return SearchTrial(number, values, COMPLETE, "", Trained(values, 100, 20, 1.0, False, score))


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([(20, 0.5), (30, 0.9), (10, 0.1)], "trial 2 won by its rate, ahead of 50.0% of trial 1; "),
        (
            [(30, 0.5), (30, 0.4), (10, 0.1)],
            "trial 2 won by its loss of 0.4, the lowest of 2 trials with this rate; ",
        ),
        ([(30, None), (30, None)], "trial 1 won by being the first of 2 trials with this rate; "),
        ([(30, None), (30, 0.4)], "trial 2 won by its loss of 0.4, the lowest of 2 trials with this rate; "),
        ([(30, 0.5), "the loss is nan at step 3"], "trial 1 is the only one that came to its end"),
        ([(30, 0.5)], "trial 1 is the only one"),
    ],
)
def test_it_is_said_by_what_the_best_trial_won(trials: Sequence[Got], said: str) -> None:
    assert searched(*trials).won_by.startswith(said)


def test_the_others_that_may_be_worth_as_much_are_counted() -> None:
    assert searched((30, 0.5), (28, 0.5), (29, 0.5)).won_by.endswith("its interval lie all 2 other trials")
    assert searched((30, 0.5), (28, 0.5), (5, 0.5)).won_by.endswith("lie 1 of the 2 other trials")
    assert searched((30, 0.5), (5, 0.5)).won_by.endswith("does not lie the other trial")
    assert searched((30, 0.5), (28, 0.5)).won_by.endswith("its interval lies the other trial")


def test_the_best_trial_is_named_with_its_values_and_its_interval() -> None:
    found = searched((20, 0.5), "no better than half of those before", (30, 0.9), "the loss is nan")
    assert found.ends == "2 complete, 1 pruned, 1 failed"
    assert found.sentence == (
        f"best of 4 trials: {KEY} 0.0003, 75.0% [58.8, 87.3] of 40 development rows by rule label"
    )
    tree = found.as_json()
    assert (tree["best"]["trial"], tree["best"]["adapter"]) == (3, "adapter 3")
    assert [one["state"] for one in tree["trials"]] == ["complete", "pruned", "complete", "failed"]
    assert tree["trials"][3]["why"] == "the loss is nan"
    assert tree["trials"][3]["rate"] is None


@pytest.mark.parametrize(
    ("best", "said"), [(1, "the lower end"), (50, None), (97, "the upper end"), (100, "the upper end")]
)
def test_a_best_value_at_an_end_of_what_was_tried_asks_for_a_wider_search(
    best: int, said: str | None
) -> None:
    found = Searched(
        parse_over([f"{KEY}=1e-4..1e-2"]), (trial(best, (30, 0.5)), trial(20, (3, 0.5)))
    ).at_an_end
    assert found is None if said is None else found is not None
    if said:
        assert found == f"{KEY} lies at {said} of its range: a better one may lie beyond, so search wider"
