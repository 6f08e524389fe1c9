"""Clusters of co-occurrence: counts by hand, planted communities, and nothing of the held-out items."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit import tokenizers
from musicrec_kit.data.splits import Sequences
from musicrec_kit.ids import Vocabulary, make_ids
from musicrec_kit.params import IdsParams, Refused, TokenizerParams
from musicrec_kit.tokenizers.cooccurrence import STREAM, pair_counts, spectral


def params(branching=3, leaf=4):
    return TokenizerParams(kind="cooccurrence", branching=branching, leaf=leaf)


def fit(sequences, chosen=None, seed=0, folder=None):
    return tokenizers.fit({}, None, chosen or params(), folder, seed, "cpu", sequences)


def communities(groups=3, size=8, users=120, seed=0, n_items=None):
    """Users who stay inside one group of items, but for the two held-out items, which are anybody's."""
    draw = np.random.default_rng(seed)
    lists = []
    for user in range(users):
        inside = draw.permutation(size)[:5] * groups + user % groups
        lists.append([*inside, *draw.integers(0, groups * size, 2)])
    return Sequences.from_lists(lists, n_items or groups * size)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_pair_counts_equal_loops_over_users(seed):
    draw = np.random.default_rng(seed)
    lists = [draw.integers(0, 7, draw.integers(1, 9)).tolist() for _ in range(6)]
    sequences, known = Sequences.from_lists(lists, 7), Counter()
    for items in lists:
        kept = items[:-2] if len(items) > 2 else items  # leave-one-out: two are held out, if there are more
        known.update((a, b) for a, b in permutations(kept, 2) if a != b)
    found = pair_counts(sequences).toarray()
    assert found.tolist() == [[known[a, b] for b in range(7)] for a in range(7)]


def test_held_out_items_change_nothing():
    sequences = communities()
    other = np.where(sequences.in_training, sequences.items, (sequences.items + 5) % sequences.n_items)
    assert (other != sequences.items).sum() == 2 * sequences.n_users
    changed = Sequences(sequences.offsets, other.astype(np.int32), sequences.held_out, sequences.n_items)
    assert np.array_equal(fit(sequences)[1].codes[STREAM], fit(changed)[1].codes[STREAM])


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_communities_are_the_first_level(seed):
    table = fit(communities(seed=seed), seed=seed)[1].codes[STREAM]
    pairs = {(int(item) % 3, int(code)) for item, code in enumerate(table[:, 0])}
    assert len(pairs) == 3
    assert np.bincount(np.unique(table, axis=0, return_inverse=True)[1].ravel()).max() <= 4, "leaves of at most four"


def test_the_same_seed_gives_the_same_codes():
    first, again = (fit(communities(), seed=4)[1] for _ in range(2))
    assert np.array_equal(first.codes[STREAM], again.codes[STREAM]) and first.sizes == again.sizes


def test_a_code_tells_the_way_to_it():
    """ "<A3-7>" is another token than "<A4-7>": a cluster's number at a level belongs to one parent."""
    codes = fit(communities(4, 12, 200))[1]
    table, sizes = codes.codes[STREAM], codes.sizes[STREAM]
    assert table.shape[1] >= 2
    for level in range(1, table.shape[1]):
        here = table[:, level] >= 0
        parents = {int(code): set() for code in table[here, level]}
        for row in table[here]:
            parents[int(row[level])].add(tuple(row[:level]))
        assert all(len(found) == 1 for found in parents.values())
        assert sorted(parents) == list(range(sizes[level])), "every number is a cluster"


def test_items_that_nobody_takes_with_another_are_clusters_of_one():
    sequences = communities(n_items=27)  # 24, 25 and 26 stand in no training part
    seen = set(sequences.items[sequences.in_training].tolist())
    assert seen == set(range(24))
    table = fit(sequences)[1].codes[STREAM]
    own = table[24:, 0].tolist()
    assert len(set(own)) == 3 and not set(own) & set(table[:24, 0].tolist())
    assert (table[24:, 1:] == -1).all()


def test_graphs_smaller_than_the_number_of_clusters():
    assert spectral(np.zeros((2, 2)), 3, 0).tolist() == [0, 1]
    table = fit(Sequences.from_lists([[0, 1, 2, 3]], 4))[1].codes[STREAM]
    assert sorted(table[:, 0].tolist()) == [0, 1, 2, 3], "a pair and two items of nobody"


def test_leaf_indices_share_their_tokens_and_new_items_are_refused(tmp_path):
    tokenizer, codes = fit(communities(), folder=tmp_path)
    ids = make_ids(codes, {STREAM: (STREAM,)}, IdsParams(collisions="suffix"), seed=0)
    assert ids.collisions[STREAM]["after"]["colliding"] == 0
    vocabulary = Vocabulary.from_ids(ids, IdsParams())
    assert vocabulary.size == 2 + sum(codes.sizes[STREAM]) + int(ids.suffix[STREAM].max()) + 1
    tokenizer.save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert loaded.params == tokenizer.params and loaded.vectors_of(codes) == {}
    with pytest.raises(Refused, match="a new item has none"):
        loaded.encode({})
