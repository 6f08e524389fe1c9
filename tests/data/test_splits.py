"""Leave-one-out, cuts in time and training prefixes against slices of plain lists."""

import numpy as np
import pytest
import reference_data
from hypothesis import given
from hypothesis import strategies as st

from musicrec_kit.data.splits import Sequences, held_out, train_prefixes

HISTORIES = st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=7)


def listed(sequences, examples):
    parts = zip(examples.users, examples.start, examples.end, examples.target, strict=True)
    return [(int(u), sequences.items[s:e].tolist(), int(t)) for u, s, e, t in parts]


@given(HISTORIES, st.integers(1, 4))
def test_prefixes_equal_the_slow_loop(histories, history):
    sequences = Sequences.from_lists(histories, n_items=10)
    examples = train_prefixes(sequences, history)
    assert listed(sequences, examples) == reference_data.prefixes(histories, history)
    training = [len(h) - 2 if len(h) >= 3 else len(h) for h in histories]
    assert len(examples) == sum(max(n - 1, 0) for n in training)


@given(HISTORIES)
def test_held_out_targets_are_the_last_two(histories):
    sequences = Sequences.from_lists(histories, n_items=10)
    users = [(user, items) for user, items in enumerate(histories) if len(items) >= 3]
    everything = 10**9
    assert listed(sequences, held_out(sequences, "valid", everything)) == [(u, h[:-2], h[-2]) for u, h in users]
    assert listed(sequences, held_out(sequences, "test", everything)) == [(u, h[:-1], h[-1]) for u, h in users]
    assert listed(sequences, held_out(sequences, "test", 2)) == [(u, h[:-1][-2:], h[-1]) for u, h in users]


@given(HISTORIES)
def test_splits_partition_each_sequence(histories):
    sequences = Sequences.from_lists(histories, n_items=10)
    splits = np.split(sequences.splits, sequences.offsets[1:-1]) if histories else []
    for history, split in zip(histories, splits, strict=True):
        n = len(history)
        assert split.tolist() == ([0] * (n - 2) + [1, 2] if n >= 3 else [0] * n)
    assert sequences.in_training.tolist() == (sequences.splits == 0).tolist()


@given(st.lists(st.lists(st.integers(0, 9), max_size=9, unique=True), max_size=7))
def test_no_target_is_inside_its_history_or_a_later_part(histories):
    sequences = Sequences.from_lists(histories, n_items=10)
    found = [train_prefixes(sequences, 20), *(held_out(sequences, split, 20) for split in ("valid", "test"))]
    for examples in found:
        for _, history, target in listed(sequences, examples):
            assert target not in history
    training = {(user, target) for user, _, target in listed(sequences, found[0])}
    targets = {(user, target) for examples in found[1:] for user, _, target in listed(sequences, examples)}
    assert not training & targets


def test_users_with_one_and_two_interactions_only_train():
    sequences = Sequences.from_lists([[3], [1, 2], [4, 5, 6]])
    assert sequences.held_out.tolist() == [0, 0, 2]
    assert listed(sequences, train_prefixes(sequences, 20)) == [(1, [1], 2)]
    assert listed(sequences, held_out(sequences, "valid", 20)) == [(2, [4], 5)]
    assert listed(sequences, held_out(sequences, "test", 20)) == [(2, [4, 5], 6)]
    assert (sequences.n_users, sequences.n_items) == (3, 7)


def test_take_keeps_the_order_of_the_index():
    sequences = Sequences.from_lists([[0, 1, 2, 3, 4, 5]])
    examples = train_prefixes(sequences, 20)
    assert examples.take(np.array([2, 0])).target.tolist() == [3, 1]
    assert examples.take(slice(0, 1)).target.tolist() == [1]


def test_types_are_those_of_the_contract():
    sequences = Sequences.from_lists([[0, 1, 2, 3]])
    examples = train_prefixes(sequences, 20)
    assert (sequences.offsets.dtype, sequences.items.dtype) == (np.int64, np.int32)
    assert (examples.users.dtype, examples.start.dtype, examples.target.dtype) == (np.int64, np.int64, np.int32)
    with pytest.raises(AssertionError):
        held_out(sequences, "train", 20)


def walk(histories, times, cuts):
    """The slow rule: training items, and (user, history, target) of each split."""
    trained, found = [], {"valid": [], "test": []}
    for user, (items, when) in enumerate(zip(histories, times, strict=True)):
        trained.append([i for i, t in zip(items, when, strict=True) if t < cuts[0]])
        for split, first, last in (("valid", cuts[0], cuts[1]), ("test", cuts[1], 10**9)):
            for place, t in enumerate(when):
                if first <= t < last:
                    if place:
                        found[split].append((user, items[:place], items[place]))
                    break
    return trained, found


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), max_size=9), max_size=7), st.data())
def test_cuts_in_time_equal_the_slow_rule(events, data):
    first = data.draw(st.integers(0, 12))
    cuts = first, data.draw(st.integers(first + 1, 14))
    times = [sorted(t for _, t in user) for user in events]
    histories = [[i for i, _ in user] for user in events]
    counts = np.array([len(h) for h in histories], np.int64)
    items, time = (np.array([x for part in parts for x in part], np.int64) for parts in (histories, times))
    sequences = Sequences.from_cuts(counts, items, time, cuts, 10)
    trained, found = walk(histories, times, cuts)
    for user, expected in enumerate(trained):
        assert sequences.items[sequences.offsets[user] : sequences.train_end[user]].tolist() == expected
    for split, expected in found.items():
        assert listed(sequences, held_out(sequences, split, 10**9)) == expected
    again = Sequences.from_splits(counts, items, sequences.splits, 10)
    assert all(np.array_equal(getattr(again, n), getattr(sequences, n)) for n in ("held_out", "valid_at", "test_at"))
    assert (time[sequences.in_training] < cuts[0]).all() and (time[sequences.splits == 2] >= cuts[1]).all()
    only, known = sequences.before("valid"), sequences.before("test")
    parts = np.split(only.items, only.offsets[1:-1]) if trained else []
    assert [part.tolist() for part in parts] == trained
    assert known.in_training.sum() == len(only.items) and (known.test_at == -1).all()
    assert [(u, t) for u, _, t in listed(known, held_out(known, "valid", 9))] == [(u, t) for u, _, t in found["valid"]]
    assert not len(held_out(only, "valid", 9)) and known.n_items == only.n_items == 10


@given(HISTORIES)
def test_what_is_known_before_a_split_holds_neither_it_nor_what_follows(histories):
    sequences = Sequences.from_lists(histories, n_items=10)
    for split, left_out in (("valid", 2), ("test", 1)):
        known = sequences.before(split)
        parts = np.split(known.items, known.offsets[1:-1]) if histories else []
        kept = [h[: len(h) - left_out] if len(h) >= 3 else h for h in histories]
        assert [part.tolist() for part in parts] == kept
        assert listed(known, train_prefixes(known, 3)) == listed(sequences, train_prefixes(sequences, 3))
        assert np.array_equal(known.seen, sequences.seen)
