"""Merging and ranks against loops."""

import numpy as np
import reference_generation as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit.generation import lists
from musicrec_kit.generation.beam_search import Found
from musicrec_kit.generation.legal import make_legal
from musicrec_kit.generation.pairs import Pairs
from musicrec_kit.ids.vocabulary import Vocabulary
from musicrec_kit.params import IdsParams


@st.composite
def view_lists(draw):
    """Lists of 1-3 views for 3 users: distinct items, scores descending on a coarse grid so that ties happen."""
    n_views, width = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    made = []
    for _ in range(n_views):
        items = np.stack([generator.permutation(9)[:width] for _ in range(3)])
        scores = -np.sort(generator.integers(0, 9, (3, width)) / 4.0, axis=1)
        short = generator.integers(0, width + 1, 3)
        empty = np.arange(width) >= short[:, None]
        items[empty], scores[empty] = -1, -np.inf
        made.append((items, scores))
    return made


def rows_of(made, user):
    return [(items[user].tolist(), scores[user].tolist()) for items, scores in made]


def tensors(made):
    return [(torch.from_numpy(items), torch.from_numpy(scores).float()) for items, scores in made]


def listed(merged, user):
    items, scores = merged.items[user].tolist(), merged.scores[user].tolist()
    kept = [(i, s) for i, s in zip(items, scores, strict=True) if i != -1]
    assert items[len(kept) :] == [-1] * (len(items) - len(kept))
    return kept


@settings(max_examples=150, deadline=None)
@given(view_lists())
def test_merge_equals_the_lineage_loop(made):
    merged = lists.merge_lineage(tensors(made))
    for user in range(3):
        assert listed(merged, user) == reference.merge_by_walk(rows_of(made, user))


def test_merge_by_hand():
    text = (torch.tensor([[7, 3, 5]]), torch.tensor([[-0.5, -1.0, -1.5]]))
    image = (torch.tensor([[3, 9, -1]]), torch.tensor([[-0.25, -0.75, -torch.inf]]))
    merged = lists.merge_lineage([text, image])
    # item 3 is met by image at rank 0 first, then by text at rank 1: (-.25 - 1) / 2 + 1
    assert merged.items[0, :4].tolist() == [3, 7, 9, 5]
    assert merged.scores[0, :4].tolist() == [0.375, -0.5, -0.75, -1.5]


@settings(max_examples=150, deadline=None)
@given(view_lists())
def test_log_sum_exp_equals_the_loop(made):
    merged = lists.merge_lse(tensors(made))
    for user in range(3):
        found, expected = listed(merged, user), reference.merge_by_lse(rows_of(made, user))
        assert sorted(i for i, _ in found) == sorted(i for i, _ in expected)
        np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000))
def test_target_rank_is_pessimistic_among_other_ids(seed):
    generator = np.random.default_rng(seed)
    items = np.stack([generator.permutation(8)[:6] for _ in range(4)])
    items[generator.random((4, 6)) < 0.2] = -1
    scores = -np.sort(generator.integers(0, 3, (4, 6)).astype(float), axis=1)
    classes, targets = generator.integers(0, 4, 8), generator.integers(0, 8, 4)
    found = lists.ranks_of_targets(*map(torch.from_numpy, (items, scores, targets, classes)))
    for user in range(4):
        row = [(i, s) for i, s in zip(items[user].tolist(), scores[user].tolist(), strict=True)]
        place = next((p for p, (i, _) in enumerate(row) if i == targets[user]), None)
        if place is None:
            assert found[user] == 0
            continue
        ahead = 0
        for p, (item, score) in enumerate(row):
            if item in (-1, targets[user]):
                continue
            tie = score == row[place][1]
            ahead += score > row[place][1] or (tie and (classes[item] != classes[targets[user]] or p < place))
        assert found[user] == 1 + ahead


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=4, max_size=4), min_size=1, max_size=4))
def test_any_scores_are_sorted_as_floats_are(rows):
    """Signs, zeros of both signs, infinities, numbers next to zero; a place that is not kept comes last."""
    scores = torch.tensor(rows)
    items, kept = torch.arange(4).expand(scores.shape), torch.arange(4).expand(scores.shape) != 2
    made = lists._sorted(items, scores, kept, items)
    for row, values in enumerate(scores.tolist()):
        order = sorted([0, 1, 3], key=lambda place: (-values[place], place))
        assert made.items[row].tolist() == [*order, -1]
        assert made.scores[row].tolist() == [*(values[place] for place in order), -np.inf]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_items_of_ids_equal_the_loop(seed, masked):
    generator = np.random.default_rng(seed)
    n_items, beams, width = 12, int(generator.integers(1, 6)), int(generator.integers(1, 8))
    classes = generator.integers(0, 6, n_items)
    vocabulary = Vocabulary.from_ids(reference.make_ids({"main": classes[:, None]}), IdsParams(), 0)
    legal = make_legal(vocabulary, ("main",), "joint")
    leaf_items = lists.shuffled_leaves(legal, seed)
    leaf_of, listed_items = legal.leaf_of_item(n_items), leaf_items.tolist()
    leaves = np.stack([generator.permutation(np.append(np.unique(leaf_of), [-1] * 6))[:beams] for _ in range(3)])
    scores = generator.random((2, *leaves.shape)).astype(np.float32)
    seen = generator.random((3, n_items)) < 0.4 if masked else None
    found = Found(torch.from_numpy(leaves), *map(torch.from_numpy, scores))
    keys = None if seen is None else torch.from_numpy(np.flatnonzero(seen))
    made = lists.expand_items(found, legal, leaf_items, width, None if keys is None else Pairs.of(keys, n_items, 3))
    for user in range(3):
        expected = [
            (item, scores[0, user, beam], scores[1, user, beam])
            for beam, leaf in enumerate(leaves[user])
            for item in listed_items
            if leaf_of[item] == leaf and not (masked and seen[user, item])
        ][:width]
        got = list(zip(*(part[user].tolist() for part in made), strict=True))
        assert got == expected + [(-1, -np.inf, -np.inf)] * (width - len(expected))
