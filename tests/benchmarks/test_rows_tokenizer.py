"""The rows of the tokenizers room and of the catalogue run at a tiny scale, and both ways agree."""

import pytest

from tests.benchmarks import catalogue, rkmeans, scale, tokenizer
from tests.benchmarks.harness import Row


def _agreement(row: Row) -> list[str]:
    usual = row.usual.work()
    return [row.agree(usual, side.work()) for side in row.ours]


@pytest.mark.parametrize("module", [catalogue, rkmeans, tokenizer], ids=lambda module: module.__name__.split(".")[-1])
def test_both_ways_agree(module) -> None:
    for row in module.rows(None, 0.01):
        assert all(_agreement(row))
        assert set(row.targets) <= {side.name for side in row.ours}


def test_another_loss_does_not_agree() -> None:
    """The tolerance on losses is tight enough to tell a commitment weight of .26 from .25."""
    (row,) = tokenizer.rows(None, 0.01)
    items = tokenizer.made_items(200, {name: dim // 32 for name, dim in tokenizer.DIMS.items()})
    params = tokenizer.SIZE_PAPER.model_copy(update={"hidden": (64, 32), "codes": 16, "batch": 64, "mu": 0.26})
    with pytest.raises(AssertionError):
        row.agree(row.usual.work(), tokenizer.ours(items, params))


def test_scale_measures_every_quantity() -> None:
    found = scale.growth(scale.smoke())
    assert set(found.index.get_level_values("by")) == {"items", "users"}
    assert (found.iloc[:, :-1] > 0).all(axis=None)
