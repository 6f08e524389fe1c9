"""Comparison: scipy's paired test, coverage of the interval, and the effect that can be seen."""

import numpy as np
import pytest
from scipy import stats

from musicrec_kit.evaluation.compare import (
    Spread,
    bootstrap_interval,
    compare,
    compare_worlds,
    paired_test,
    spread_of,
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


def test_the_standard_error_of_hr_for_601_users():
    # science.md: about .0136 at a hit rate of .128
    hits = np.arange(601) < 0.128 * 601
    assert standard_error(hits) == pytest.approx(0.0136, abs=0.0001)


def test_one_user_is_no_test():
    assert np.isnan(paired_test(np.ones(1), np.zeros(1))[1])
    assert np.isnan(compare(np.ones((3, 1)), np.zeros((3, 1))).low)


def test_with_one_seed_nothing_is_known_of_other_trainings():
    rng = np.random.default_rng(5)
    b = rng.random(300)
    found = compare(b + 0.1 + 0.01 * rng.random(300), b)
    assert (found.low, found.high) == found.bootstrap and found.low < found.difference < found.high
    assert found.difference == pytest.approx(found.mean_a - found.mean_b)
    assert np.isnan([found.p, found.detectable]).all() and found.p_users < 1e-6
    assert (found.users, found.seeds) == (300, 1)


def test_a_crossed_table_by_hand():
    """Three seeds of four users: every number below was written down before the code."""
    a = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]], float)
    b = np.array([[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]], float)
    # differences: rows 1 0 0 1 | 1 0 0 0 | 0 1 1 1; of users 2/3 1/3 1/3 2/3, of seeds 1/2 1/4 3/4, of all 1/2
    users = (4 * (1 / 6) ** 2 / 3) / 4
    seeds = (2 * (1 / 4) ** 2 / 2) / 3
    left = a - b - 0.5
    assert (left**2).sum() == pytest.approx(3.0)
    rest = (3.0 - 3 * 4 * (1 / 6) ** 2 - 4 * 2 * (1 / 4) ** 2) / (2 * 3) / 12
    variance = users + max(0.0, seeds - rest)
    df = variance**2 / (users**2 / 3 + seeds**2 / 2)
    found = compare(a, b)
    assert found.difference == pytest.approx(0.5)
    reach = stats.t.ppf(0.975, df) * np.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((0.5 - reach, 0.5 + reach))
    assert found.p == pytest.approx(2 * stats.t.sf(0.5 / np.sqrt(variance), df))
    assert found.detectable == pytest.approx((stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)) * np.sqrt(variance))
    assert found.p_users == pytest.approx(stats.ttest_1samp([2 / 3, 1 / 3, 1 / 3, 2 / 3], 0).pvalue)


def test_many_users_leave_the_t_test_over_seeds():
    """Users who all agree add nothing: what is left is scipy's t-test of the seeds' differences."""
    apart = np.array([0.02, 0.05, 0.09])
    found = compare(np.tile(apart[:, None], (1, 50)), np.zeros((3, 50)))
    assert found.p == pytest.approx(stats.ttest_1samp(apart, 0).pvalue)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 2, apart.mean(), stats.sem(apart)))


def test_the_common_spread_is_that_of_a_two_way_analysis_of_variance():
    table = np.random.default_rng(6).normal(size=(5, 3)) + np.arange(5)[:, None] + [[1.0, 2.0, 4.0]]
    two = spread_of([table[:2]])
    assert two.df == 2 and two.variance == pytest.approx((table[0] - table[1]).var(ddof=1))
    pairs = [(table[i] - table[j]).var(ddof=1) for i in range(5) for j in range(i)]
    assert spread_of([table]) == Spread(pytest.approx(np.mean(pairs)), 8)
    both = spread_of([table, table[:2]])
    assert both == Spread(pytest.approx((8 * np.mean(pairs) + 2 * two.variance) / 10), 10)
    assert spread_of([table[:1], table[:, :1]]) is None


@pytest.mark.parametrize("of_seeds", [0.0, 0.03])
def test_rows_that_are_alike_are_told_apart_as_rarely_as_it_says(of_seeds):
    """Six rows of one hit rate, trained three times: five of a hundred intervals may leave out zero."""
    rng, wrong = np.random.default_rng(7), []
    for _ in range(150):
        rates = 0.2 + rng.normal(0, of_seeds, (6, 3)).clip(-0.15, 0.15)
        tastes = rng.normal(0, 0.1, (6, 1, 200))
        hits = (rng.random((6, 3, 200)) < rates[..., None] + tastes).astype(float)
        spread = spread_of([hits.mean(axis=2)])
        for row in range(1, 6):
            found = compare(hits[0], hits[row], spread)
            wrong.append((not found.low <= 0 <= found.high, found.p < 0.05))
    assert np.array_equal(*np.transpose(wrong))
    assert np.mean(wrong) < 0.07


def test_the_detectable_effect_is_found_with_its_power():
    rng, found = np.random.default_rng(8), []
    spread = Spread(2 * 0.02**2 + 0.3**2 / 400, 20)
    values = [rng.normal(rng.normal(0, 0.02, (3, 1)), 0.3, (3, 400)) for _ in range(400)]
    effect = np.median([compare(v, np.zeros_like(v), spread).detectable for v in values])
    for v in values:
        other = rng.normal(rng.normal(0, 0.02, (3, 1)), 1e-9, (3, 400))
        result = compare(v + effect, other, spread)
        found.append(result.low > 0)
    assert np.mean(found) == pytest.approx(0.8, abs=0.07)


def test_worlds_count_once_each():
    rng = np.random.default_rng(9)
    pairs = [(rng.random((2, n)) + shift, np.zeros((2, n))) for n, shift in ((30, 0.0), (40, 0.1), (50, 0.4))]
    means = np.array([a.mean() for a, _ in pairs])
    found = compare_worlds(pairs)
    assert found.difference == pytest.approx(means.mean())
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 2, means.mean(), stats.sem(means)))
    assert (found.users, found.seeds) == (120, 3)
    wide = compare_worlds(pairs, Spread(3 * 0.01, 10))
    assert wide.high - wide.difference == pytest.approx(stats.t.ppf(0.975, 10) * 0.1)


def test_other_users_cannot_be_compared():
    with pytest.raises(AssertionError, match="not the same users"):
        compare(np.ones(3), np.ones(4))
