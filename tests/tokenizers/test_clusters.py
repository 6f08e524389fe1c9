"""Trees of clusters: hand-made splits, planted groups, the walk of new items, and IDs of unlike length."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit import tokenizers
from musicrec_kit.ids import Vocabulary, make_ids
from musicrec_kit.params import IdsParams, Refused, TokenizerParams
from musicrec_kit.tokenizers.clusters import LEAF, grow


def features(matrix, present=None, name="text"):
    matrix = np.asarray(matrix, np.float32)
    return {name: SimpleNamespace(matrix=matrix, present=np.ones(len(matrix), bool) if present is None else present)}


def params(branching=2, leaf=2, **more):
    return TokenizerParams(kind="hierarchical", branching=branching, leaf=leaf, **more)


# six points on a line: two groups far apart, and the first falls apart into two pairs
LINE = [[0.0], [0.1], [1.0], [1.1], [50.0], [50.1]]


def test_a_split_by_hand():
    """Items 10..15: odd from even; the three even ones are split again, into 10 and the others."""
    calls = []

    def split(members):
        calls.append(members.tolist())
        return members % 2 if len(calls) == 1 else members > 10

    paths, opens = grow(np.arange(10, 16), split, leaf=2)
    assert calls == [[10, 11, 12, 13, 14, 15], [10, 12, 14], [11, 13, 15]]
    assert paths.tolist() == [[0, 0], [1, 0], [0, 1], [1, 0], [0, 1], [1, 0]]
    # the root's children are splits 1 and 2; split 2 put 11, 13 and 15 into one part, which stays a leaf
    assert opens == [[1, 2], [LEAF, LEAF], [LEAF]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(2, 4), st.integers(1, 6), st.integers(0, 1000))
def test_leaves_are_small_and_no_way_begins_another(n, branching, leaf, seed):
    draw = np.random.default_rng(seed)
    paths, opens = grow(np.arange(n), lambda members: draw.permutation(len(members)) % branching, leaf)
    ways = [tuple(code for code in row if code != LEAF) for row in paths.tolist()]
    behind = [row[len(way) :] for row, way in zip(paths.tolist(), ways, strict=True)]
    assert all(code == LEAF for rest in behind for code in rest)
    assert max(ways.count(way) for way in ways) <= max(leaf, 1)
    assert not any(a != b and b[: len(a)] == a for a in set(ways) for b in set(ways))
    inner = {way[:level] for way in ways for level in range(len(way))}
    assert len(opens) == len(inner)


def test_kmeans_tree_of_points_on_a_line():
    """Two far pairs-of-pairs: the first level tells the far group, the second splits the group of four."""
    tokenizer, codes = tokenizers.fit(features(LINE), None, params(), seed=0)
    table = codes.codes["text"]
    assert table.shape == (6, 2) and codes.sizes == {"text": (2, 2)}
    near, far = table[0, 0], table[4, 0]
    assert table[:, 0].tolist() == [near] * 4 + [far] * 2 and near != far
    assert table[4:, 1].tolist() == [LEAF, LEAF]
    assert table[0, 1] == table[1, 1] != table[2, 1] == table[3, 1]
    centres = tokenizer.vectors_of(codes)["text"][:, 0]
    assert np.diff(centres[[0, 2, 4]]).min() > 0 and centres[0] == centres[1] and centres[4] == centres[5]


def test_new_items_walk_down_to_the_nearest_leaf(tmp_path):
    tokenizer, codes = tokenizers.fit(features(LINE), None, params(), tmp_path, seed=0)
    tokenizer.save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert (tmp_path / "health.json").is_file() and loaded.params == tokenizer.params
    table = codes.codes["text"]
    assert np.array_equal(loaded.encode({"text": np.array(LINE)}).codes["text"], table)
    new = loaded.encode({"text": np.array([[0.05], [0.9], [99.0]])}).codes["text"]
    assert new.tolist() == [table[0].tolist(), table[2].tolist(), table[4].tolist()]
    with pytest.raises(Refused, match="fitted on 1 columns"):
        loaded.encode({"text": np.zeros((1, 2))})
    with pytest.raises(Refused, match="not one of this tokenizer's"):
        loaded.encode({"image": np.zeros((1, 1))})


def test_walk_equals_brute_force_over_all_leaves_level_by_level():
    draw = np.random.default_rng(1)
    matrix = draw.normal(size=(200, 5)).astype(np.float32)
    tokenizer, codes = tokenizers.fit(features(matrix), None, params(4, 6), seed=2)
    tree, vectors = tokenizer.trees["text"], tokenizer.scalings["text"](torch.from_numpy(matrix)).numpy()
    for item in range(0, 200, 7):
        split, way = 0, []
        while split != LEAF:
            rows = range(tree.first[split], tree.first[split + 1])
            distances = [float(((tree.centres[row].numpy() - vectors[item]) ** 2).sum()) for row in rows]
            way.append(int(np.argmin(distances)))
            split = int(tree.opens[rows[way[-1]]])
        assert way == [code for code in codes.codes["text"][item] if code != LEAF]


def test_planted_clusters_are_found_and_draws_depend_on_the_seed_alone():
    draw = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 12)
    matrix = 40 * draw.normal(size=(4, 6))[group] + draw.normal(size=(48, 6))
    found = [tokenizers.fit(features(matrix), None, params(4, 12), seed=seed)[1].codes["text"] for seed in (0, 0, 1)]
    assert np.array_equal(found[0], found[1])
    for table in found:
        assert table.shape[1] == 1
        assert len({(int(code), int(g)) for code, g in zip(table[:, 0], group, strict=True)}) == 4


def test_items_without_the_modality_and_equal_items():
    present = np.array([True, True, False, True, True, True])
    _, codes = tokenizers.fit(features(np.ones((6, 3)), present), None, params(), seed=0)
    assert codes.codes["text"].tolist() == [[0], [0], [-1], [0], [0], [0]], "equal items stay in one leaf"


def test_ids_are_the_way_and_an_index_in_the_leaf():
    _, codes = tokenizers.fit(features(LINE), None, params(), seed=0)
    ids = make_ids(codes, {"text": ("text",)}, IdsParams(collisions="suffix"), seed=0)
    vocabulary = Vocabulary.from_ids(ids, IdsParams())
    tokens, lengths = vocabulary.tokens_of("text")
    assert lengths.tolist() == [3, 3, 3, 3, 2, 2]
    assert vocabulary.size == 2 + 2 + 2 + 2, "pad, eos, two levels of two codes, two indices"
    names = [vocabulary.text(row[:n].tolist()) for row, n in zip(tokens, lengths, strict=True)]
    assert len(set(names)) == 6
    assert {name.split("<")[-1] for name in names} == {"dup:text.0>", "dup:text.1>"}, "one vocabulary for every leaf"
    assert ids.collisions["text"]["after"]["colliding"] == 0
