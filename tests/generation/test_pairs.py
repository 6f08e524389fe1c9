"""Pairs of users and numbers against a plain table."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit.generation.pairs import NOTHING, Pairs


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.floats(0, 1), st.integers(0, 999))
def test_pairs_answer_as_a_table_does(users, numbers, share, seed):
    draw = torch.Generator().manual_seed(seed)
    table = torch.rand(users, numbers, generator=draw) < share
    pairs = Pairs.of(table.flatten().nonzero()[:, 0], numbers, users)
    assert pairs.most == int(table.sum(dim=1).max())
    asked = torch.randint(NOTHING, numbers, (users, 4, 3), generator=draw)
    row = torch.arange(users)[:, None, None]
    assert torch.equal(pairs.hold(asked), table[row, asked.clamp(min=0)] & (asked != NOTHING))
    some = (torch.rand(users, generator=draw) < 0.5).nonzero()[:, 0]
    everything = torch.arange(numbers).expand(len(some), -1)
    assert torch.equal(pairs.take(some).hold(everything), table[some])
