"""Order, filters and the k-core against hand-written cases and a slow loop."""

import numpy as np
import pytest
import reference_data
from hypothesis import given
from hypothesis import strategies as st

from musicrec_kit.data import filters
from musicrec_kit.data.filters import Events
from musicrec_kit.data.reading import NO_TIME
from musicrec_kit.params import DataParams, Refused

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)


def events(user, item, time=None, rating=None):
    n = len(user)
    time = np.zeros(n, np.int64) if time is None else np.asarray(time)
    rating = np.full(n, np.nan) if rating is None else np.asarray(rating, float)
    return Events(np.asarray(user, np.int64), np.asarray(item, np.int64), rating, time, np.arange(n))


@given(PAIRS, st.integers(0, 5))
def test_k_core_equals_the_slow_loop(pairs, k):
    users = np.array([user for user, _ in pairs], np.int64)
    items = np.array([item for _, item in pairs], np.int64)
    assert filters.k_core(users, items, k).tolist() == reference_data.k_core(pairs, k)


def test_k_core_unravels_a_chain_to_the_end():
    # user u has items u and u + 1: only the two ends are below 2, and each step makes new ends
    users = np.repeat(np.arange(50), 2)
    items = users + np.tile([0, 1], 50)
    assert not filters.k_core(users, items, 2).any()


def test_order_is_by_time_and_stable():
    log = events([1, 0, 1, 1, 0], [5, 6, 7, 8, 9], time=[30, 20, 10, 30, 20])
    assert log.take(filters.time_order(log)).item.tolist() == [6, 9, 7, 5, 8]


def test_shuffle_moves_only_equal_times_and_obeys_its_seed():
    time = np.repeat([3, 1, 2], 20)
    log = events(np.zeros(60), np.arange(60), time=time)
    orders = [log.take(filters.time_order(log, "shuffle", seed)).item for seed in (0, 0, 1)]
    assert orders[0].tolist() == orders[1].tolist() != orders[2].tolist()
    for order in orders:
        assert time[order].tolist() == sorted(time)
        assert sorted(order[:20]) == list(range(20, 40))
    # the rows' place in memory is not their place in the file
    turned = log.take(np.arange(60)[::-1])
    assert turned.take(filters.time_order(turned, "shuffle", 1)).item.tolist() == orders[2].tolist()


@pytest.mark.parametrize("tie_order", ["file", "shuffle"])
def test_a_user_with_an_unknown_time_keeps_file_order(tie_order):
    log = events([0, 0, 0, 1, 1], [1, 2, 3, 4, 5], time=[9, NO_TIME, 1, 8, 7])
    assert log.take(filters.time_order(log, tie_order, 3)).item.tolist() == [1, 2, 3, 5, 4]


def test_first_occurrence_is_per_user():
    assert filters.first_occurrence(events([0, 0, 0, 1, 1], [3, 4, 3, 3, 3])).tolist() == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_reports_say_what_each_filter_dropped():
    log = events([0, 0, 0, 1, 1, 2], [0, 1, 1, 0, 1, 2], rating=[5, 4, 4, 5, 5, 1])
    params = DataParams(min_rating=2, has_text=True, k_core=2)
    kept, reports = filters.apply(log, params, np.array([True, True, True]), np.zeros(3, bool))
    assert kept.item.tolist() == [0, 1, 0, 1]
    assert [r["name"] for r in reports] == ["source", "min_rating", "has_text", "first_occurrence", "k_core"]
    assert [r["interactions"] for r in reports] == [6, 5, 5, 4, 4]
    assert [r["dropped_users"] for r in reports] == [0, 1, 0, 0, 0]
    assert [r["dropped_items"] for r in reports] == [0, 1, 0, 0, 0]
    assert [r["dropped_interactions"] for r in reports] == [0, 1, 0, 1, 0]


def test_an_empty_result_is_refused_with_the_trail():
    log = events([0, 1], [0, 1])
    with pytest.raises(Refused, match=r"has_image leaves no interaction \(source: 2, has_image: 0\)"):
        filters.apply(log, DataParams(has_image=True), np.ones(2, bool), np.zeros(2, bool))
    with pytest.raises(Refused, match="k_core leaves no interaction"):
        filters.apply(log, DataParams(k_core=2), np.ones(2, bool), np.ones(2, bool))


def test_a_rating_threshold_without_ratings_is_refused():
    with pytest.raises(Refused, match="no interaction has a rating"):
        filters.apply(events([0], [0]), DataParams(min_rating=4), np.ones(1, bool), np.ones(1, bool))
