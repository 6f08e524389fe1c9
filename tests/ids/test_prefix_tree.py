"""Prefix tree: against a trie of dictionaries, and the cases at its edges."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_ids import Trie

from musicrec_kit.ids.prefix_tree import ROOT, PrefixTree

SEQUENCES = st.lists(st.lists(st.integers(2, 6), max_size=4), max_size=20)


def build(sequences):
    width = max((len(s) for s in sequences), default=0) + 1
    tokens = np.array([s + [0] * (width - len(s)) for s in sequences], np.int32).reshape(len(sequences), width)
    return PrefixTree.from_tokens(tokens, np.array([len(s) for s in sequences], np.int32), eos=1)


@settings(max_examples=200, deadline=None)
@given(SEQUENCES)
def test_tree_is_the_set_of_ids(sequences):
    tree, trie = build(sequences), Trie(sequences)
    assert tree.n_nodes == 1 + len({whole[:stop] for whole in trie.items for stop in range(1, len(whole) + 1)})
    widest = {}
    for prefix, children in trie.children.items():
        tokens, nodes = tree.children(tree.find(prefix))
        assert tokens.tolist() == sorted(children)
        assert [tree.find((*prefix, token)) for token in tokens] == nodes.tolist()
        widest[len(prefix)] = max(widest.get(len(prefix), 0), len(children))
    assert tree.max_branch == tuple(widest[depth] for depth in sorted(widest))
    for whole, items in trie.items.items():
        assert tree.items_of(tree.find(whole)).tolist() == items
    assert sorted(tree.leaf_items.tolist()) == [item for item, s in enumerate(sequences) if s]


@settings(deadline=None)
@given(SEQUENCES, st.lists(st.integers(0, 7), max_size=5))
def test_nothing_else_is_reachable(sequences, prefix):
    tree, trie = build(sequences), Trie(sequences)
    legal = not prefix or any(whole[: len(prefix)] == tuple(prefix) for whole in trie.items)
    assert (tree.find(prefix) >= 0) == legal


@settings(deadline=None)
@given(SEQUENCES)
def test_edges_are_contiguous_and_lead_to_the_next_node(sequences):
    tree = build(sequences)
    assert tree.child_node.tolist() == list(range(1, tree.n_nodes))
    assert (tree.child_first + tree.child_count <= tree.n_nodes - 1).all()
    assert tree.child_count.sum() == tree.n_nodes - 1
    leaves = np.diff(tree.leaf_first) > 0
    assert (leaves == (tree.child_count == 0))[1:].all()


def test_a_prefix_of_another_id_is_an_id_too():
    tree = build([[2, 3], [2], [2, 3], []])
    assert tree.items_of(tree.find([2, 1])).tolist() == [1]
    assert tree.items_of(tree.find([2, 3, 1])).tolist() == [0, 2]
    assert tree.items_of(tree.find([2, 3])).tolist() == []
    assert tree.depth == 3


def test_a_tree_of_no_ids_is_its_root():
    tree = build([[], []])
    assert (tree.n_nodes, tree.max_branch, tree.leaf_items.tolist()) == (1, (), [])
    assert tree.children(ROOT)[0].tolist() == []


def test_tree_of_tensors_walks_alike():
    tree = build([[2, 3], [2, 4], [5, 3]]).to("cpu")
    assert isinstance(tree.child_token, torch.Tensor)
    assert tree.items_of(tree.find([2, 4, 1])).tolist() == [1]
    assert tree.find([5, 4]) == -1


def test_many_items():
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 258, (200_000, 4)) + np.arange(4) * 256
    tree = PrefixTree.from_tokens(tokens, np.full(len(tokens), 4))
    prefixes = [len(np.unique(keys(tokens, width))) for width in (1, 2, 3, 4)]
    assert tree.n_nodes == 1 + sum(prefixes) + prefixes[-1]
    item = 123_456
    assert item in tree.items_of(tree.find([*tokens[item], 1]))


def keys(tokens, width):
    return (tokens[:, :width].astype(np.int64) * 1024 ** np.arange(width)).sum(axis=1)
