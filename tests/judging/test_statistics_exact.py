from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from pytest_finetune.judging.statistics.exact import (
    binomial_pmf,
    binomial_tail,
    fair_tail,
    fewest_fixed,
    mcnemar_p,
)


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 400))
def test_the_p_value_is_the_binomial_tail_of_scipy(fixed: int, broken: int) -> None:
    expected = 1.0 if fixed + broken == 0 else stats.binom.sf(fixed - 1, fixed + broken, 0.5)
    assert mcnemar_p(fixed, broken) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("fixed", "broken"), [(6, 0), (9, 2), (30, 11), (120, 80)])
def test_twice_the_p_value_is_the_two_sided_exact_mcnemar_test_of_statsmodels(
    fixed: int, broken: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        two_sided = mcnemar([[0, fixed], [broken, 0]], exact=True).pvalue
    assert 2 * mcnemar_p(fixed, broken) == pytest.approx(two_sided, rel=1e-10)


def test_six_to_nothing_decides_and_five_to_nothing_does_not() -> None:
    assert 2 * mcnemar_p(6, 0) == 0.03125
    assert 2 * mcnemar_p(5, 0) == 0.0625
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(0, 7) == 1.0


@pytest.mark.parametrize("trials", [1000, 10_000])
def test_the_far_tail_of_many_rows_keeps_its_relative_accuracy(trials: int) -> None:
    for successes in (trials // 2, trials * 6 // 10, trials * 9 // 10):
        expected = stats.binom.sf(successes - 1, trials, 0.5)
        assert fair_tail(successes, trials) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 60), st.just(0.0) | st.floats(1e-100, 1))  # below, scipy overflows
def test_tails_and_point_masses_agree_with_scipy(successes: int, trials: int, rate: float) -> None:
    assert binomial_tail(successes, trials, rate) == pytest.approx(
        stats.binom.sf(successes - 1, trials, rate), abs=1e-11
    )
    assert binomial_pmf(successes, trials, rate) == pytest.approx(
        stats.binom.pmf(successes, trials, rate), abs=1e-11
    )


@settings(deadline=None)
@given(st.floats(1e-5, 0.3), st.integers(1, 300))
def test_the_fewest_fixed_rows_are_the_first_that_the_test_accepts(alpha: float, differing: int) -> None:
    fewest = fewest_fixed(alpha, 300)[differing]
    assert fewest > differing or mcnemar_p(fewest, differing - fewest) <= alpha * (1 + 1e-9)
    assert mcnemar_p(fewest - 1, differing - fewest + 1) > alpha * (1 - 1e-9)
