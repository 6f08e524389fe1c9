"""Strata by hand: who stands in which, and that each pair of them is a partition."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit.data.splits import Sequences, held_out
from musicrec_kit.evaluation.strata import strata

# training parts: [0 1 2 0], [0 1], [2 3 0], [0]; test targets 0, 4, 3, 1
SEQUENCES = Sequences.from_lists([[0, 1, 2, 0, 1, 0], [0, 1, 2, 4], [2, 3, 0, 2, 3], [0, 2, 1]], n_items=6)


def test_strata_by_hand() -> None:
    found = strata(SEQUENCES, held_out(SEQUENCES, "test", 10**9), np.array([1, 0, 1, 1, 0, 0], bool))
    # training takes item 0 five times, 1 and 2 twice, 3 once: a fifth of four seen items is item 0 alone
    assert found["head target"].tolist() == [True, False, False, False]
    assert found["cold target"].tolist() == [False, True, False, False]
    assert found["tail target"].tolist() == [False, False, True, True]
    assert found["short history"].tolist() == [False, True, False, True]  # of 5, 3, 4 and 2 items; median 3.5
    assert found["target with picture"].tolist() == [True, False, True, False]
    assert found["all"].all()


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), min_size=1, max_size=6))
def test_strata_are_partitions(lists: list[list[int]]) -> None:
    sequences = Sequences.from_lists(lists, n_items=6)
    found = strata(sequences, held_out(sequences, "test", 10**9))
    for parts in (("warm target", "cold target"), ("short history", "long history")):
        assert (found[list(parts)].sum(axis=1) == 1).all()
    assert (found["head target"] + found["tail target"] == found["warm target"]).all()
    assert "target with picture" not in found
