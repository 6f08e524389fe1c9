"""Collisions: the vectorised procedures against slow references, and cases worked by hand."""

import numpy as np
import pytest
import reference_ids as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from musicrec_kit.ids import collisions

CODES = arrays(np.int32, st.tuples(st.integers(0, 30), st.integers(1, 4)), elements=st.integers(0, 3))


@settings(deadline=None)
@given(CODES)
def test_counts_agree_with_a_dictionary(codes):
    codes[: len(codes) // 4] = -1
    assert collisions.count(codes) == pytest.approx(reference.count(codes.tolist()))


def test_groups_are_numbered_in_the_order_of_their_codes():
    codes = np.array([[2, 0], [0, 1], [2, 0], [0, 0]])
    assert collisions.group_of(codes).tolist() == [2, 1, 2, 0]


@settings(deadline=None)
@given(CODES)
def test_suffixes_count_up_inside_each_group(codes):
    codes[:2] = -1
    suffix = collisions.suffixes(codes, np.random.default_rng(0))
    with_id = (codes >= 0).any(axis=1)
    assert (suffix[~with_id] == 0).all()
    whole = np.column_stack([codes, suffix])[with_id]
    assert collisions.count(whole)["rate"] == 0
    for row in np.unique(codes[with_id], axis=0):
        inside = suffix[(codes == row).all(axis=1)]
        assert sorted(inside) == list(range(len(inside)))


def test_the_order_of_suffixes_is_drawn_and_not_that_of_item_numbers():
    codes = np.zeros((50, 2), np.int32)
    drawn = [collisions.suffixes(codes, np.random.default_rng(seed)).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != list(range(50))


def colliding(codes):
    group = collisions.group_of(codes)
    return np.flatnonzero((np.bincount(group)[group] > 1) & (codes >= 0).any(axis=1))


def test_distance_by_hand():
    # three items share (0, 1): item 2 is nearest to it and stays; of the others item 0 (.3) comes before item 1 (.4)
    codes = np.array([[0, 1], [0, 1], [0, 1], [0, 2]], np.int32)
    distances = np.zeros((3, 2, 4), np.float32)
    distances[:, 0] = [0, 1, 2, 3]
    distances[0, 1] = [0.5, 0.3, 0.4, 0.6]  # i = 1: prefers 1, 2, 0, 3; 2 is item 3's, so it takes 0
    distances[1, 1] = [0.5, 0.4, 0.6, 0.7]  # i = 2: starts from its entry number 2, which is 2; so it takes 3
    distances[2, 1] = [0.5, 0.1, 0.6, 0.7]
    after = collisions.by_distance(codes, np.arange(3), distances, (4, 4))
    assert after.tolist() == [[0, 0], [0, 3], [0, 1], [0, 2]]


def test_distance_goes_to_the_second_last_level_when_the_last_is_full():
    codes = np.array([[0, 0], [0, 1], [0, 1], [1, 0]], np.int32)
    distances = np.array([[[0, 2], [1, 0]], [[0, 2], [1, 0.5]]], np.float32)
    # item 2 is the further one; (0, 0) and (0, 1) are taken; under 1 it prefers last code 1
    after = collisions.by_distance(codes, np.array([1, 2]), distances, (2, 2))
    assert after.tolist() == [[0, 0], [0, 1], [1, 1], [1, 0]]
    with_one_level = collisions.by_distance(codes, np.array([1, 2]), distances, (2, 2), free_levels=1)
    assert with_one_level.tolist() == codes.tolist()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_distance_follows_the_lineage_to_the_letter(n_items, n_levels, n_codes, free_levels, seed):
    rng = np.random.default_rng(seed)
    free_levels = min(free_levels, n_levels)
    codes = rng.integers(0, n_codes, (n_items, n_levels)).astype(np.int32)
    codes[rng.random(n_items) < 0.1] = -1
    items = colliding(codes)
    distances = rng.integers(1, 4, (len(items), n_levels, n_codes)).astype(np.float32)  # with ties
    np.put_along_axis(distances, codes[items][:, :, None], 0, axis=2)
    distances += rng.random((len(items), 1, 1)).astype(np.float32)
    order = rng.permutation(len(items))
    after = collisions.by_distance(codes, items[order], distances[order], (n_codes,) * n_levels, free_levels)
    by_item = dict(zip(items.tolist(), distances.tolist(), strict=True))
    assert after.tolist() == reference.by_distance(codes.tolist(), by_item, free_levels).tolist()
    fixed = n_levels - free_levels
    assert (after[:, :fixed] == codes[:, :fixed]).all()
    untouched = np.setdiff1d(np.arange(n_items), items)
    assert (after[untouched] == codes[untouched]).all()


def test_distance_leaves_no_collision_where_there_is_room():
    rng = np.random.default_rng(3)
    codes = np.column_stack([rng.integers(0, 2, 400), rng.integers(0, 4, (400, 2)), rng.integers(0, 8, 400)])
    codes = codes.astype(np.int32)
    items = colliding(codes)
    distances = rng.random((len(items), 4, 32)).astype(np.float32)
    np.put_along_axis(distances, codes[items][:, :, None], 0, axis=2)
    after = collisions.by_distance(codes, items, distances, (32,) * 4)
    assert collisions.count(codes)["rate"] > 0
    assert collisions.count(after)["rate"] == 0


def slow_sinkhorn(costs):
    """Follow lineage 2.1 on lists of floats."""
    low, high = min(map(min, costs)), max(map(max, costs))
    scaled = [[(c - (low + high) / 2) / ((high - low) / 2 + 1e-5) for c in row] for row in costs]
    plan = np.exp(-np.array(scaled, np.float64) / 0.003)
    for _ in range(50):
        plan = plan / plan.sum(1, keepdims=True) / plan.shape[0]
        plan = plan / plan.sum(0, keepdims=True) / plan.shape[1]
    return plan.argmax(1).tolist()


def test_sinkhorn_spreads_a_group_and_touches_only_the_last_level():
    rng = np.random.default_rng(0)
    codes = np.array([[1, 2]] * 3 + [[0, 0]] * 2 + [[3, 1], [-1, -1]], np.int32)
    items, distances = np.arange(5), rng.random((5, 2, 8)).astype(np.float32)
    after = collisions.by_sinkhorn(codes, items, distances, (8, 8))
    assert (after[:, 0] == codes[:, 0]).all()
    assert collisions.count(after)["rate"] == 0
    assert after[:3, 1].tolist() == slow_sinkhorn(distances[:3, 1].astype(float).tolist())
    assert after[3:5, 1].tolist() == slow_sinkhorn(distances[3:5, 1].astype(float).tolist())
    assert after[5:].tolist() == codes[5:].tolist()


def test_sinkhorn_leaves_equal_items_together_and_ends():
    codes = np.zeros((2, 2), np.int32)
    distances = np.repeat(np.random.default_rng(0).random((1, 2, 4)).astype(np.float32), 2, axis=0)
    after = collisions.by_sinkhorn(codes, np.arange(2), distances, (4, 4))
    assert after[0].tolist() == after[1].tolist()


def test_sinkhorn_never_moves_an_item_onto_one_that_has_no_distances():
    rng = np.random.default_rng(5)
    codes = np.array([[0, 0], [0, 0], [0, 1], [0, 2], [0, 3]], np.int32)
    after = collisions.by_sinkhorn(codes, np.arange(2), rng.random((2, 2, 6)).astype(np.float32), (6, 6))
    assert sorted(after[:, 1].tolist())[:3] != [0, 0, 1]
    assert after[2:].tolist() == codes[2:].tolist()
    assert set(after[:2, 1].tolist()) <= {0, 4, 5}
