"""Windows: every training item but the first is a target once; nothing of validation or test is in them."""

import gzip
import json
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit.data.splits import Sequences
from musicrec_kit.sequential.windows import (
    NO_TARGET,
    bucketed,
    cut_windows,
    hold_back,
    overlapping_windows,
    padded,
    training_rows,
)

histories = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=8)


@settings(deadline=None, max_examples=50)
@given(histories, st.integers(1, 5))
def test_each_later_item_is_a_target_once(lists: list[list[int]], history: int) -> None:
    sequences = Sequences.from_lists(lists, n_items=10)
    windows = cut_windows(sequences.items, sequences.offsets[:-1], sequences.train_end, history)
    lengths = windows.end - windows.start
    assert ((lengths >= 2) & (lengths <= history + 1)).all()
    inputs, targets = training_rows(windows, np.arange(len(windows)), padding=10)
    assert np.array_equal(inputs == 10, targets == -1) or not len(windows)
    found = np.sort(
        np.concatenate([np.arange(s + 1, e) for s, e in zip(windows.start, windows.end, strict=True)] or [[]])
    )
    first, last = sequences.offsets[:-1], sequences.train_end
    expected = np.concatenate([np.arange(f + 1, max(e, f + 1)) for f, e in zip(first, last, strict=True)])
    assert np.array_equal(found, expected)


def test_rows_are_filled_on_the_right_and_no_wider_than_needed() -> None:
    items = np.arange(10, dtype=np.int32)
    assert padded(items, np.array([0, 4]), np.array([3, 5]), fill=99).tolist() == [[0, 1, 2], [4, 99, 99]]
    assert padded(items, np.array([2]), np.array([2]), fill=99).tolist() == [[99]]


def test_batches_hold_every_window_once_and_similar_lengths() -> None:
    rng = np.random.default_rng(0)
    sequences = Sequences.from_lists([rng.integers(0, 9, rng.integers(4, 15)).tolist() for _ in range(100)])
    windows = cut_windows(sequences.items, sequences.offsets[:-1], sequences.train_end, 20)
    batches = bucketed(windows, 16, seed=0, epoch=3)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(windows)))
    lengths = windows.end - windows.start
    spans = sorted((int(lengths[b].min()), int(lengths[b].max())) for b in batches)
    assert all(high <= low for (_, high), (low, _) in zip(spans, spans[1:], strict=False))
    again, other = bucketed(windows, 16, seed=0, epoch=3), bucketed(windows, 16, seed=0, epoch=4)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(batches, other, strict=True))


def test_held_back_targets_are_training_items_that_no_window_has() -> None:
    """Each of 40 users: 3 training items; the last one is item 0, which everybody has."""
    sequences = Sequences.from_lists([[1, 2, 0, 3, 4] for _ in range(40)], n_items=5)
    windows, examples = hold_back(sequences, history=20, share=0.25, most=100, seed=0)
    assert len(examples) == 10 and set(examples.target.tolist()) == {0}
    assert (examples.end == sequences.offsets[examples.users] + 2).all()
    assert sorted((windows.end - windows.start).tolist()) == [2] * 10 + [3] * 30


def test_an_items_only_place_in_training_is_not_held_back() -> None:
    sequences = Sequences.from_lists([[0, 1, user, 0, 1] for user in range(2, 12)], n_items=12)
    windows, examples = hold_back(sequences, history=20, share=1.0, most=100, seed=0)
    assert len(examples) == 0 and len(windows) == 10


def test_instruments_has_as_many_targets_as_training_prefixes(real_data: Path) -> None:
    """The published count of training prefixes is 84,890."""
    with gzip.open(real_data / "instruments" / "Instruments.inter.json.gz", "rt") as opened:
        sequences = Sequences.from_lists(json.load(opened).values())
    windows = cut_windows(sequences.items, sequences.offsets[:-1], sequences.train_end, 20)
    assert (windows.end - windows.start - 1).sum() == 84_890


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 9))
def test_overlapping_windows_ask_for_each_target_once_with_half_a_history(lengths: list[int], history: int) -> None:
    ends = np.cumsum(lengths)
    items = np.arange(ends[-1])
    windows = overlapping_windows(items, ends - lengths, ends, history)
    inputs, targets = training_rows(windows, np.arange(len(windows)), padding=-5)
    asked = targets != NO_TARGET
    assert sorted(targets[asked].tolist()) == sorted(set(range(ends[-1])) - set((ends - lengths).tolist()))
    assert inputs.shape[1] <= history or not len(windows)
    for row, window in enumerate(inputs):
        for place in np.flatnonzero(asked[row]):
            target = targets[row, place]
            before = target - (ends - lengths)[ends > target][0]  # items that stand before it in its sequence
            assert window[place] == target - 1 and place + 1 >= min(before, history - max(1, history // 2) + 1)
