from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_finetune.judging.statistics.clusters import effective_rows, sign_flip_p
from pytest_finetune.judging.statistics.exact import mcnemar_p
from pytest_finetune.judging.statistics.paired import PairedGain
from pytest_finetune.judging.statistics.sample import Sample, differences, needed_passes

PASSES = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=40
)
GRADES = st.integers(0, 10).map(lambda tenth: tenth / 10)


def gain_of(
    fixed: int,
    broken: int,
    same: int,
    groups: Sequence[str] | None = None,
    noisy: Sequence[bool] | None = None,
) -> PairedGain:
    ours = [1.0] * fixed + [0.0] * broken + [1.0] * same
    theirs = [0.0] * fixed + [1.0] * broken + [1.0] * same
    return PairedGain.of(ours, theirs, groups, noisy)


def flips(sums: Sequence[float]) -> float:
    """Return the sign-flip p-value by listing every sign."""
    totals = [
        sum(s * v for s, v in zip(signs, sums, strict=True))
        for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    return sum(total >= sum(sums) - 1e-9 for total in totals) / len(totals)


@settings(deadline=None)
@given(PASSES)
def test_binary_rows_are_judged_by_mcnemar(scores: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*scores, strict=True)
    gain = PairedGain.of(ours, theirs)
    fixed, broken = (scores.count(pair) for pair in ((1.0, 0.0), (0.0, 1.0)))
    assert gain.p == mcnemar_p(fixed, broken)
    assert gain.p_worse == mcnemar_p(broken, fixed)
    assert gain.gain == (fixed - broken) / len(scores)


def test_ties_stay_in_the_number_of_rows() -> None:
    assert gain_of(10, 0, 90).gain == 0.1
    assert gain_of(10, 0, 90).n == 100


@pytest.mark.parametrize(("margin", "rows"), [(0.07, 100), (0.1, 30), (0.3, 10), (0.55, 20), (0.29, 100)])
def test_margins_are_compared_as_decimals_and_not_as_floats(margin: float, rows: int) -> None:
    exact = needed_passes(margin, rows)
    assert exact == round(margin * rows)
    assert gain_of(exact, 0, rows - exact).claim.reaches(margin)
    assert not gain_of(exact - 1, 0, rows - exact + 1).claim.reaches(margin)


def test_a_gain_beats_only_when_it_is_demonstrated_and_large_enough() -> None:
    assert gain_of(6, 0, 54).beats(0.1, 0.025)
    assert not gain_of(6, 0, 55).beats(0.1, 0.025)
    assert not gain_of(5, 0, 10).beats(0.1, 0.025)


def test_identical_answers_exclude_ten_points_from_36_rows_and_five_from_72() -> None:
    for margin, rows in ((0.1, 36), (0.05, 72)):
        assert gain_of(0, 0, rows).excludes(margin, 0.025)
        assert gain_of(0, 0, rows).holds(margin, 0.025)
        assert not gain_of(0, 0, rows - 1).excludes(margin, 0.025)
        assert not gain_of(0, 0, rows - 1).holds(margin, 0.025)


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60), st.sampled_from([0.0, 0.05, 0.1, 0.3]))
def test_what_is_excluded_agrees_with_the_bound_that_is_shown(
    fixed: int, broken: int, same: int, margin: float
) -> None:
    if fixed + broken + same == 0:
        return
    gain = gain_of(fixed, broken, same)
    low, high = gain.interval(0.025)
    assert gain.excludes(margin, 0.025) is (high < margin)
    assert gain.holds(margin, 0.025) is (low > -margin)
    assert not (gain.beats(margin, 0.025) and (gain.excludes(margin, 0.025) or gain.worse(0.025)))


@settings(deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=11))
def test_flipping_clusters_by_convolution_equals_listing_every_sign(sums: list[int]) -> None:
    assert sign_flip_p(tuple(map(float, sums))) == pytest.approx(flips(sums), abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.integers(-9, 9).map(lambda tenth: tenth / 10), min_size=1, max_size=11))
def test_flipping_graded_clusters_equals_listing_every_sign(sums: list[float]) -> None:
    assert sign_flip_p(tuple(sums)) == pytest.approx(flips(sums), abs=1e-12)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40))
def test_clusters_of_one_row_are_rows(fixed: int, broken: int) -> None:
    alone = gain_of(fixed, broken, 3, groups=[f"c{i}" for i in range(fixed + broken + 3)])
    unnamed = PairedGain.of(
        [1.0] * fixed + [0.0] * broken + [1.0] * 3,
        [0.0] * fixed + [1.0] * (broken + 3),
        [None] * (fixed + broken + 3),
    )
    plain = gain_of(fixed, broken, 3)
    assert alone.claim.effective == unnamed.claim.effective == plain.n
    if fixed + broken >= 6:
        assert alone.p == pytest.approx(plain.p, rel=1e-9)
        assert unnamed.p == pytest.approx(plain.p, rel=1e-9)
    assert alone.claim.lower(0.025) == pytest.approx(plain.claim.lower(0.025), abs=1e-12)


def test_fewer_than_six_changed_clusters_support_no_claim() -> None:
    five = gain_of(50, 0, 10, groups=[f"g{i % 5}" for i in range(50)] + [f"s{i}" for i in range(10)])
    six = gain_of(60, 0, 10, groups=[f"g{i % 6}" for i in range(60)] + [f"s{i}" for i in range(10)])
    assert five.p == 1.0
    assert six.p == 1 / 64


def test_many_rows_of_one_cluster_are_worth_little() -> None:
    groups = ["one"] * 30 + [f"c{i}" for i in range(10)]
    clustered, plain = gain_of(30, 0, 10, groups), gain_of(30, 0, 10)
    assert effective_rows([30] + [1] * 10) == pytest.approx(1600 / 910)
    assert clustered.claim.lower(0.025) < 0 < plain.claim.lower(0.025)
    assert plain.p < 1e-8
    assert clustered.p == 1.0


def test_noisy_rows_never_count_as_fixed_nor_against_a_brake() -> None:
    noisy = [True] * 4 + [False] * 4 + [True] * 3 + [False] * 9
    gain = gain_of(8, 3, 9, noisy=noisy)
    assert gain.gain == (4 - 3) / 20
    assert gain.p == mcnemar_p(4, 3)
    assert gain.p_worse == mcnemar_p(0, 8)
    quiet = gain_of(8, 3, 9, noisy=[False] * 20)
    assert quiet.p == gain_of(8, 3, 9).p


@given(st.lists(st.tuples(GRADES, GRADES, st.booleans()), min_size=1, max_size=30))
@settings(deadline=None)
def test_noise_only_ever_makes_a_claim_harder_and_a_brake_slower(
    rows: list[tuple[float, float, bool]],
) -> None:
    ours, theirs, noisy = zip(*rows, strict=True)
    quiet, marked = PairedGain.of(ours, theirs), PairedGain.of(ours, theirs, None, noisy)
    assert marked.gain <= quiet.gain
    assert marked.claim.lower(0.025) <= quiet.claim.lower(0.025) + 1e-12
    assert marked.brake.upper(0.025) >= quiet.brake.upper(0.025) - 1e-12


def test_differences_of_written_decimals_are_exact() -> None:
    assert differences([0.3, 0.7, 1.0], [0.1, 0.6, 0.0]) == (0.2, 0.1, 1.0)


@given(st.lists(st.tuples(GRADES, GRADES), min_size=2, max_size=40))
@settings(deadline=None)
def test_a_graded_gain_is_demonstrated_exactly_when_its_bound_clears_zero(
    rows: list[tuple[float, float]],
) -> None:
    ours, theirs = zip(*rows, strict=True)
    gain = PairedGain.of(ours, theirs)
    if not gain.claim.binary:
        assert (gain.p <= 0.025) is (gain.claim.lower(0.025) >= 0)


def test_the_sign_flip_test_would_claim_what_the_bound_does_not() -> None:
    """Many small gains and a rare collapse: exchangeable signs are not a positive mean."""
    graded = PairedGain.of([0.55] * 20, [0.5] * 20)
    assert graded.claim.p_sign_flip() == pytest.approx(0.5**20)
    assert graded.p > 0.3
    assert Sample.of([1.0, 0.0]).p_sign_flip() is None


def test_the_graded_bound_covers_a_skewed_mean_where_resampling_does_not() -> None:
    rng = np.random.default_rng(5)
    true_mean = 0.95 * 0.05 - 0.05 * 0.95
    demonstrated = sum(
        Sample.of(np.where(rng.random(20) < 0.05, -0.95, 0.05).tolist()).p_gain() <= 0.025 for _ in range(300)
    )
    assert true_mean == pytest.approx(0.0)
    assert demonstrated == 0
