"""Protocol: lists and ranks against sorted lists, masks, ties, and the tables on disk."""

import numpy as np
import pandas as pd
import pytest
import reference_evaluation as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit.data.splits import Sequences, held_out
from musicrec_kit.evaluation.protocol import (
    RankedList,
    Rankings,
    per_user_table,
    rank_by_scores,
    ranks_in_lists,
    summarize,
    top_k,
)

HISTORIES = st.lists(st.lists(st.integers(0, 7), min_size=3, max_size=7), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(HISTORIES, st.integers(1, 10), st.integers(1, 4), st.integers(0, 2**32 - 1), st.sampled_from(["valid", "test"]))
def test_lists_and_ranks_equal_the_slow_loop(histories, k, chunk, seed, split):
    sequences = Sequences.from_lists(histories, n_items=8)
    examples, full = held_out(sequences, split, 2), held_out(sequences, split, 10**9)
    table = np.random.default_rng(seed).integers(0, 4, (sequences.n_users, 8)).astype(np.float32)
    table[np.random.default_rng(seed + 1).random(table.shape) < 0.1] = -np.inf
    plain, masked = rank_by_scores(lambda e: table[e.users], examples, full, sequences, k, chunk)
    for row, user in enumerate(examples.users):
        earlier = histories[user][: -1 if split == "test" else -2]
        for ranked, mask in ((plain, ()), (masked, earlier)):
            items, rank = reference.rank(table[user].tolist(), int(examples.target[row]), k, mask)
            assert ranked.items[row].tolist() == items + [-1] * (k - len(items))
            assert ranked.scores[row, : len(items)].tolist() == table[user][items].tolist()
            assert ranked.target_rank[row] == rank


def test_a_constant_scorer_finds_nothing():
    sequences = Sequences.from_lists([[0, 1, 2], [3, 4, 0]], n_items=50)
    examples, full = held_out(sequences, "test", 20), held_out(sequences, "test", 10**9)
    plain, masked = rank_by_scores(lambda e: np.zeros((len(e), 50)), examples, full, sequences)
    assert plain.target_rank.tolist() == masked.target_rank.tolist() == [0, 0]
    assert plain.items[0].tolist() == list(range(20))
    assert masked.items[0].tolist() == list(range(2, 22))


def test_lists_without_history_still_hold_k_items():
    sequences = Sequences.from_lists([list(range(30))], n_items=60)
    examples, full = held_out(sequences, "test", 5), held_out(sequences, "test", 10**9)
    _, masked = rank_by_scores(lambda e: -np.arange(60.0)[None], examples, full, sequences)
    # the model saw 5 items; all 29 earlier ones are masked
    assert masked.items[0].tolist() == list(range(29, 49))
    assert masked.target_rank.tolist() == [1]


def test_no_users_give_empty_lists():
    sequences = Sequences.from_lists([[0, 1]], n_items=3)
    examples = held_out(sequences, "test", 5)
    plain, _ = rank_by_scores(lambda e: np.zeros((len(e), 3)), examples, examples, sequences, k=2)
    assert plain.items.shape == (0, 2)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_top_k_equals_a_stable_sort(k, n_items, seed):
    scores = np.random.default_rng(seed).integers(0, 3, (5, n_items)).astype(np.float32)
    items, best = top_k(scores, k)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert items[:, : order.shape[1]].tolist() == order.tolist()
    assert best[:, : order.shape[1]].tolist() == np.take_along_axis(scores, order, 1).tolist()
    assert (items[:, order.shape[1] :] == -1).all()


def test_ranks_in_lists_put_ties_before_the_target():
    items = np.array([[4, 7, 2, -1], [4, 7, 2, -1], [4, 7, 2, -1], [4, 7, 2, -1]])
    scores = np.array([[3.0, 2.0, 2.0, -np.inf]] * 4)
    assert ranks_in_lists(items, scores, np.array([4, 7, 2, 9])).tolist() == [1, 3, 3, 0]


def test_items_of_one_id_stand_in_the_order_of_the_list():
    items, scores = np.array([[4, 7, 2, 5]] * 3), np.array([[3.0, 2.0, 2.0, 2.0]] * 3)
    ids = np.array([[0, 1, 1, 2]] * 3)  # 7 and 2 share an ID; 5 ties with both by chance
    assert ranks_in_lists(items, scores, np.array([7, 2, 5]), ids).tolist() == [3, 4, 4]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ranks_in_lists_equal_those_of_the_scores(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (4, 6)).astype(np.float32)
    items, best = top_k(scores, 6)
    targets = rng.integers(0, 6, 4)
    expected = [reference.rank(row.tolist(), int(t), 6)[1] for row, t in zip(scores, targets, strict=True)]
    assert ranks_in_lists(items, best, targets).tolist() == expected


@pytest.fixture
def rankings():
    def ranked(ranks):
        items = np.array([[5, 3, -1], [2, -1, -1]], np.int32)
        return RankedList(items, np.where(items >= 0, 0.5, -np.inf).astype(np.float32), np.array(ranks, np.int32))

    lists = {
        ("test", "text"): ranked([2, 0]),
        ("test", "text/no_history"): ranked([1, 0]),
        ("test", "popularity"): ranked([0, 1]),
        ("valid", "text"): ranked([0, 0]),
    }
    users = {"test": np.array([7, 9]), "valid": np.array([7, 9])}
    return Rankings(users, {"test": np.array([3, 2], np.int32), "valid": np.array([0, 0], np.int32)}, lists)


def test_metrics_have_the_keys_of_the_contract(rankings):
    values = summarize(rankings)
    assert len(values) == 4 * 12
    assert values["test/text/hr@1"] == 0
    assert values["test/text/mrr@5"] == 0.25
    assert values["test/text/hr@1/no_history"] == 0.5
    assert values["test/popularity/ndcg@20"] == 0.5


def test_rankings_are_saved_and_loaded(rankings, tmp_path):
    rankings.save(tmp_path)
    loaded = Rankings.load(tmp_path)
    assert list(loaded.lists) == list(rankings.lists)
    for key, ranked in rankings.lists.items():
        for name in ("items", "scores", "target_rank"):
            one, two = getattr(ranked, name), getattr(loaded.lists[key], name)
            assert one.tolist() == two.tolist()
            assert one.dtype == two.dtype
    for split in ("test", "valid"):
        assert loaded.users[split].tolist() == rankings.users[split].tolist()
        assert loaded.targets[split].tolist() == rankings.targets[split].tolist()
    table = pd.read_parquet(tmp_path / "rankings.parquet")
    assert list(table.columns) == ["user", "list", "split", "rank", "item", "score"]
    assert table["rank"].min() == 1


def test_the_per_user_table_is_the_contract_s(rankings):
    sequences = Sequences.from_lists([[1, 2, 5, 5], [3, 0, 4]], n_items=6)  # training holds 1, 2 and 3
    table = per_user_table(rankings, sequences)
    assert list(table.columns) == ["user", "list", "split", "target", "rank", "rank_no_history", "cold"]
    test = table[(table["split"] == "test") & (table["list"] == "text")]
    assert test[["target", "rank", "rank_no_history"]].to_numpy().tolist() == [[3, 2, 1], [2, 0, 0]]
    assert test["cold"].tolist() == [False, False]
    assert table[table["split"] == "valid"]["cold"].tolist() == [True, True]
    assert table[table["list"] == "popularity"]["rank_no_history"].isna().all()
