"""The rows of generation and of sequential recommenders run at a tiny scale, and both ways agree."""

import importlib.util

import pytest
import torch

from tests.benchmarks import decode, sequential, train, worlds


@pytest.fixture(autouse=True)
def _kept_here(tmp_path, monkeypatch):
    monkeypatch.setattr(worlds, "KEPT", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("module", [decode, train], ids=["decode", "train"])
def test_both_ways_agree(module) -> None:
    (row,) = module.rows(None, 0.01)
    usual = row.usual.work()
    assert all(row.agree(usual, side.work()) for side in row.ours)
    assert set(row.targets) <= {side.name for side in row.ours}


def test_other_lists_do_not_agree() -> None:
    """Of 50 lists one has another item in the place of its last: in fp32 that is more than ties explain."""
    leaf = torch.arange(20).repeat(50, 1)
    other, score = leaf.clone(), torch.zeros(50, 20)
    other[3, 19] = 77
    with pytest.raises(AssertionError):
        decode.agree(decode.Lists(leaf, score), decode.Lists(other, score))
    assert (
        decode.agree(decode.Lists(leaf, score), decode.Lists(other, score, decode.LEAST_IN_BF16)) == "99.90% of the 20"
    )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("hopwise") is None, reason="hopwise is not here: extra crosscheck")
@pytest.mark.filterwarnings("ignore")  # its own
def test_both_sasrecs_train() -> None:
    (row,) = sequential.rows(None, 0.01)
    assert "epochs" in row.agree(row.usual.work().result, row.ours[0].work().result)
