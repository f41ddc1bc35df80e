from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from pytest_finetune.judging.statistics.levels import Levels, holm


def test_the_first_look_costs_nothing_and_later_ones_are_paid_for() -> None:
    assert [Levels(look=k).claim for k in (1, 2, 3)] == [0.025, 0.05 / 6, 0.05 / 12]
    assert Levels(look=9).brake == 0.025


def test_all_looks_together_spend_what_one_look_of_twice_the_level_would() -> None:
    assert sum(Levels(look=k).claim for k in range(1, 5000)) == pytest.approx(0.05, rel=1e-3)


def test_spending_can_be_switched_off() -> None:
    assert Levels(look=7, spend=False).claim == 0.025


@pytest.mark.parametrize(("look", "fewest"), [(1, 6), (2, 7), (3, 8), (5, 10), (10, 12)])
def test_the_fewest_rows_that_allow_a_claim_grow_with_the_looks(look: int, fewest: int) -> None:
    levels = Levels(look=look)
    assert levels.fewest_rows == fewest
    assert 0.5**fewest <= levels.claim < 0.5 ** (fewest - 1)


@pytest.mark.parametrize("confidence", [0.0, 0.5, 1.0, 95])
def test_a_confidence_that_means_nothing_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"write a number between 0\.5 and 1, such as 0\.95"):
        Levels(confidence)


def test_looks_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="look=0: looks are counted from 1"):
        Levels(look=0)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_statsmodels_rejects(p_values: list[float]) -> None:
    expected = multipletests(p_values, alpha=0.025, method="holm")[0]
    corrected = sorted(p * (len(p_values) - i) for i, p in enumerate(sorted(p_values)))
    if any(abs(p - 0.025) < 1e-12 for p in corrected):
        return
    assert holm(p_values, [0.025] * len(p_values)) == tuple(expected.tolist())


def test_no_hypotheses_give_no_rejection() -> None:
    assert holm([], []) == ()
