"""Comparison: scipy's paired test, coverage of the interval, and the effect that can be seen."""

import numpy as np
import pytest
from scipy import stats

from musicrec_kit.evaluation.compare import (
    bootstrap_interval,
    compare,
    detectable_effect,
    paired_test,
    standard_error,
)


def test_scipy_s_paired_test_agrees():
    rng = np.random.default_rng(0)
    a, b = rng.random(200), rng.random(200)
    theirs = stats.ttest_rel(a, b)
    assert paired_test(a, b) == pytest.approx((theirs.statistic, theirs.pvalue))


def test_rows_that_are_alike_do_not_differ():
    assert paired_test(np.ones(5), np.ones(5)) == (0.0, 1.0)
    assert paired_test(np.ones(5), np.zeros(5)) == (np.inf, 0.0)


def test_the_interval_is_that_of_the_normal_for_many_users():
    values = np.random.default_rng(1).normal(0.2, 1, 4000)
    low, high = bootstrap_interval(values, seed=0)
    expected = values.mean() + np.array([-1.96, 1.96]) * standard_error(values)
    assert (low, high) == pytest.approx(tuple(expected), abs=0.1 * standard_error(values))
    assert bootstrap_interval(values, seed=0) == (low, high) != bootstrap_interval(values, seed=1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = [
        low <= 0.1 <= high
        for low, high in (bootstrap_interval(rng.random(150) < 0.1, seed, 0.9, 300) for seed in range(200))
    ]
    assert 0.83 < np.mean(covered) < 0.96


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(3)
    users = rng.random((1, 300))
    alike, apart = np.repeat(users, 3, axis=0), users + np.array([[-0.5], [0.0], [0.5]])
    widths = [np.diff(bootstrap_interval(values, seed=0))[0] for values in (alike, apart)]
    assert widths[1] > 3 * widths[0]


def test_the_detectable_effect_is_found_with_its_power():
    rng = np.random.default_rng(4)
    effect = detectable_effect(rng.normal(0, 1, 100_000)) * np.sqrt(1000)  # of 100 users
    found = [paired_test(rng.normal(effect, 1, 100), np.zeros(100))[1] < 0.05 for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_the_standard_error_of_hr_for_601_users():
    # science.md: about .0136 at a hit rate of .128
    hits = np.arange(601) < 0.128 * 601
    assert standard_error(hits) == pytest.approx(0.0136, abs=0.0001)


def test_a_comparison_holds_all_of_it():
    rng = np.random.default_rng(5)
    b = rng.random(300)
    found = compare(b + 0.1 + 0.01 * rng.random(300), b)
    assert found.low < found.difference < found.high
    assert found.difference == pytest.approx(found.mean_a - found.mean_b)
    assert found.p < 1e-6
    assert found.users == 300


def test_other_users_cannot_be_compared():
    with pytest.raises(AssertionError, match="not the same users"):
        compare(np.ones(3), np.ones(4))
