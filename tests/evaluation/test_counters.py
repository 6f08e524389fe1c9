"""Counters: against nested loops, and to the digit on the published interactions."""

import gzip
import json

import numpy as np
import pytest
import reference_evaluation as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit.data.splits import Sequences, held_out
from musicrec_kit.evaluation.counters import ItemKNN, Markov, NextNumber, popularity_scores
from musicrec_kit.evaluation.metrics import hit, ndcg
from musicrec_kit.evaluation.protocol import rank_by_scores

HISTORIES = st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=5)


@settings(deadline=None)
@given(HISTORIES, st.integers(1, 4), st.integers(1, 5), st.sampled_from(["valid", "test"]))
def test_markov_equals_the_nested_loops(histories, gaps, window, split):
    sequences = Sequences.from_lists(histories, n_items=7)
    training = [h[:-2] if len(h) > 2 else h for h in histories]
    examples = held_out(sequences, split, 6)
    scores = Markov(sequences, gaps, 0.5, window)(examples)
    for row, user in enumerate(examples.users):
        history = histories[user][: -1 if split == "test" else -2][-6:]
        assert scores[row] == pytest.approx(reference.markov(training, 7, history, gaps, 0.5, window))


def test_popularity_counts_the_training_part_alone():
    sequences = Sequences.from_lists([[0, 0, 1, 2], [1, 1]], n_items=4)
    examples = held_out(sequences, "test", 20)
    assert popularity_scores(sequences)(examples).tolist() == [[2, 2, 0, 0]]


def load(path):
    with gzip.open(path) as opened:
        histories = json.load(opened)
    return Sequences.from_lists([histories[user] for user in histories])


def at_10(sequences, score):
    examples, full = held_out(sequences, "test", 20), held_out(sequences, "test", 10**9)
    lists = rank_by_scores(score, examples, full, sequences)
    return [round(float(metric(ranked.target_rank, 10).mean()), 4) for ranked in lists for metric in (hit, ndcg)]


@pytest.mark.slow
def test_known_answers_on_instruments(real_data):
    sequences = load(real_data / "instruments" / "Instruments.inter.json.gz")
    assert (sequences.n_users, sequences.n_items, len(sequences.items)) == (17_112, 6_250, 136_226)
    assert at_10(sequences, Markov(sequences)) == [0.1220, 0.0918, 0.1258, 0.1030]
    assert at_10(sequences, popularity_scores(sequences)) == [0.0638, 0.0298, 0.0680, 0.0453]


def test_known_answers_on_ml_posters(real_data):
    sequences = load(real_data / "ml_posters" / "mlls_pos.inter.json.gz")
    assert at_10(sequences, Markov(sequences)) == [0.1015, 0.0564, 0.1281, 0.0693]


def test_a_large_catalogue_stays_sparse():
    rng = np.random.default_rng(0)
    sequences = Sequences.from_lists(rng.integers(0, 300_000, (50, 6)).tolist(), n_items=300_000)
    counter = Markov(sequences)
    assert counter.transitions.nnz <= 50 * 4 * 3
    examples, full = held_out(sequences, "test", 20), held_out(sequences, "test", 10**9)
    plain, _ = rank_by_scores(counter, examples.take(slice(3)), full.take(slice(3)), sequences)
    assert plain.items.shape == (3, 20)


@pytest.mark.parametrize(("neighbours", "shrink"), [(100, 0.0), (2, 0.0), (3, 2.0)])
def test_item_neighbours_by_brute_force(neighbours: int, shrink: float) -> None:
    rng = np.random.default_rng(0)
    sequences = Sequences.from_lists([rng.integers(8, size=6).tolist() for _ in range(12)], n_items=9)
    took = np.zeros((12, 9), bool)
    for user in range(12):
        took[user, sequences.items[sequences.offsets[user] : sequences.train_end[user]]] = True
    near = np.zeros((9, 9))
    for a in range(9):
        for b in range(9):
            both = (took[:, a] & took[:, b]).sum()
            if a != b and both:
                near[a, b] = both / (np.sqrt(took[:, a].sum() * took[:, b].sum()) + shrink)
        for b in sorted(range(9), key=lambda b: (-near[a, b], b))[neighbours:]:
            near[a, b] = 0
    examples = held_out(sequences, "test", 10**9)
    scores = ItemKNN(sequences, neighbours, shrink)(examples)
    for user in range(12):
        history = sequences.items[examples.start[user] : examples.end[user]]
        assert np.allclose(scores[user], sum(near[item] for item in history))


def test_the_next_numbers_are_probed_nearest_first() -> None:
    sequences = Sequences.from_lists([[0, 1, 2, 4], [1, 3, 2, 0], [4, 0, 4, 1]], n_items=6)
    plain, _ = rank_by_scores(
        NextNumber(sequences), held_out(sequences, "test", 20), held_out(sequences, "test", 20), sequences, k=3
    )
    assert plain.items.tolist() == [[3, 4, 5], [3, 4, 5], [5, -1, -1]] and plain.target_rank.tolist() == [2, 0, 0]


@pytest.mark.parametrize(("name", "expected"), [("instruments/Instruments", 0.0435), ("beauty/Beauty", 0.0308)])
def test_published_numbers_tell_what_comes_next(real_data, name: str, expected: float) -> None:
    sequences = load(real_data / f"{name}.inter.json.gz")
    assert at_10(sequences, NextNumber(sequences))[0] == expected
