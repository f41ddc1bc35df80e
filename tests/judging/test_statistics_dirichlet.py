from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from pytest_finetune.judging.statistics.dirichlet import atoms, mean_cdf, mean_quantile
from pytest_finetune.judging.statistics.exact import mcnemar_p
from pytest_finetune.judging.statistics.sample import Sample

LEVELS = st.sampled_from([0.025, 0.025 / 3, 0.2, 0.0005])


def paired(fixed: int, broken: int, same: int) -> Sample:
    return Sample.of([1.0] * fixed + [-1.0] * broken + [0.0] * same)


def test_the_integral_is_refined_until_it_is_exact() -> None:
    few = Sample.of([1.0] * 2 + [0.0] * 180)
    high = proportion_confint(2, 182, alpha=0.4, method="beta")[1]
    assert few.upper(0.2, 1.0) == pytest.approx(high, abs=1e-11)


@settings(deadline=None)
@given(st.integers(1, 500), st.data(), LEVELS)
def test_for_one_arm_the_bounds_are_those_of_clopper_and_pearson(
    n: int, data: st.DataObject, alpha: float
) -> None:
    passed = data.draw(st.integers(0, n))
    arm = Sample.of([1.0] * passed + [0.0] * (n - passed))
    low, high = proportion_confint(passed, n, alpha=2 * alpha, method="beta")
    assert arm.lower(alpha, 0.0) == pytest.approx(low, abs=1e-10)
    assert arm.upper(alpha, 1.0) == pytest.approx(high, abs=1e-10)


@pytest.mark.parametrize("passed", [1, 5000, 9700, 10_000])
def test_ten_thousand_rows_are_as_exact_as_ten(passed: int) -> None:
    arm = Sample.of([1.0] * passed + [0.0] * (10_000 - passed))
    assert arm.lower(0.025, 0.0) == pytest.approx(stats.beta.ppf(0.025, passed, 10_001 - passed), abs=1e-11)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), LEVELS)
def test_the_lower_bound_is_above_zero_exactly_when_mcnemar_rejects(
    fixed: int, broken: int, same: int, alpha: float
) -> None:
    if fixed + broken + same == 0:
        return
    rejects = mcnemar_p(fixed, broken) <= alpha
    assert (paired(fixed, broken, same).lower(alpha) > 0) is rejects
    assert (paired(fixed, broken, same).doubt(0.0) <= alpha) is rejects


@pytest.mark.parametrize(("fixed", "broken"), [(4, 0), (5, 0), (7, 1), (9, 2)])
def test_where_tango_contradicts_mcnemar_this_bound_does_not(fixed: int, broken: int) -> None:
    assert mcnemar_p(fixed, broken) > 0.025
    assert paired(fixed, broken, 20).lower(0.025) < 0


@settings(deadline=None)
@given(st.integers(0, 80), st.integers(0, 80), st.integers(0, 80), LEVELS)
def test_the_bounds_change_places_and_signs_when_the_arms_do(
    fixed: int, broken: int, same: int, alpha: float
) -> None:
    if fixed + broken + same == 0:
        return
    one, other = paired(fixed, broken, same), paired(broken, fixed, same)
    assert one.upper(alpha) == pytest.approx(-other.lower(alpha), abs=1e-12)
    assert one.lower(alpha) <= one.mean <= one.upper(alpha)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), LEVELS)
def test_one_more_fixed_row_never_lowers_a_bound(fixed: int, broken: int, same: int, alpha: float) -> None:
    before, after = paired(fixed, broken, same), paired(fixed + 1, broken, same - 1)
    assert after.lower(alpha) >= before.lower(alpha) - 1e-12
    assert after.upper(alpha) >= before.upper(alpha) - 1e-12


@pytest.mark.parametrize(("n", "bound"), [(3, 0.71), (20, 0.168), (100, 0.036)])
def test_rows_that_all_agree_leave_the_published_uncertainty(n: int, bound: float) -> None:
    same = paired(0, 0, n)
    assert -same.lower(0.025) == pytest.approx(bound, abs=0.005 if n == 3 else 0.0005)
    assert same.upper(0.025) == pytest.approx(-same.lower(0.025))


def test_the_weights_drawn_at_random_give_the_same_distribution() -> None:
    values, masses = np.array([-1.0, -0.35, 0.0, 0.2, 0.85]), np.array([1.0, 2.0, 4.0, 3.0, 2.5])
    draws = np.random.default_rng(0).dirichlet(masses, 400_000) @ values
    weighted = atoms(zip(values, masses, strict=True))
    for level in (0.005, 0.025, 0.2, 0.5, 0.9):
        assert mean_cdf(weighted, mean_quantile(weighted, level)) == pytest.approx(level, abs=1e-9)
        assert np.quantile(draws, level) == pytest.approx(mean_quantile(weighted, level), abs=0.003)


@pytest.mark.parametrize("mass", [0.05, 0.3, 1.7])
def test_masses_below_one_row_are_integrated_as_exactly(mass: float) -> None:
    weighted = atoms([(0.0, mass), (1.0, 1.0)])
    for x in (0.01, 0.3, 0.8, 0.999):
        assert mean_cdf(weighted, x) == pytest.approx(stats.beta.cdf(x, 1.0, mass), rel=1e-7)


def test_a_single_value_is_its_own_bound() -> None:
    assert paired(0, 5, 0).lower(0.025) == -1.0
    assert paired(5, 0, 0).upper(0.025) == 1.0
    assert mean_cdf(atoms([(-1.0, 3)]), -1.0) == 1.0
    assert mean_cdf(atoms([(-1.0, 3)]), -1.1) == 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(200, 600), st.integers(0, 2**31), st.floats(0.02, 1.0))
def test_thousands_of_distinct_scores_are_gridded_against_the_claim(n: int, seed: int, width: float) -> None:
    values = np.random.default_rng(seed).uniform(-width, width, n)
    gridded = Sample.of(values.tolist())
    exact = mean_quantile(atoms([*((value, 1.0) for value in values.tolist()), (-1.0, 1.0)]), 0.025)
    assert exact - 1e-4 < gridded.lower(0.025) <= exact + 1e-9
