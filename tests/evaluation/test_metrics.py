"""Metrics: edge cases, a slow loop, and ir-measures on the same lists."""

import ir_measures
import numpy as np
import pytest
import reference_evaluation as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit.evaluation import metrics

RANKS = st.lists(st.integers(0, 30), min_size=1, max_size=30).map(np.array)


@pytest.mark.parametrize(("rank", "expected"), [(0, 0), (1, 1), (10, 1), (11, 0)])
def test_hit_at_the_cut_off(rank, expected):
    assert metrics.hit(np.array([rank]), 10) == expected


def test_values_by_hand():
    ranks = np.array([1, 2, 3, 7, 0])
    assert metrics.ndcg(ranks, 10) == pytest.approx([1, 1 / np.log2(3), 0.5, 1 / 3, 0])
    assert metrics.mrr(ranks, 5) == pytest.approx([1, 1 / 2, 1 / 3, 0, 0])


@settings(deadline=None)
@given(st.permutations(range(12)), st.integers(0, 14), st.integers(1, 20))
def test_the_slow_loop_agrees(ranked, target, k):
    rank = np.array([ranked.index(target) + 1 if target in ranked else 0])
    found = [float(metric(rank, k)[0]) for metric in metrics.METRICS.values()]
    assert found == pytest.approx(reference.metrics(ranked, target, k))


@settings(deadline=None)
@given(RANKS)
def test_metrics_grow_with_k_and_keep_their_order(ranks):
    values = {name: [metric(ranks, k).mean() for k in metrics.CUTOFFS] for name, metric in metrics.METRICS.items()}
    assert all(0 <= v <= 1 for of_k in values.values() for v in of_k)
    assert all(of_k == sorted(of_k) for of_k in values.values())
    for mrr, ndcg, hr in zip(values["mrr"], values["ndcg"], values["hr"], strict=True):
        assert mrr <= ndcg + 1e-12
        assert ndcg <= hr + 1e-12


def test_ir_measures_agrees():
    rng = np.random.default_rng(0)
    n_users, k = 60, 20
    lists = np.stack([rng.permutation(40)[:k] for _ in range(n_users)])
    targets = rng.integers(0, 40, n_users)
    ranks = np.where((lists == targets[:, None]).any(1), (lists == targets[:, None]).argmax(1) + 1, 0)
    qrels = [ir_measures.Qrel(str(user), str(target), 1) for user, target in enumerate(targets)]
    run = [
        ir_measures.ScoredDoc(str(user), str(item), float(k - place))
        for user, row in enumerate(lists)
        for place, item in enumerate(row)
    ]
    for k in (1, 5, 10, 20):
        measures = {"hr": ir_measures.Success @ k, "ndcg": ir_measures.nDCG @ k, "mrr": ir_measures.RR @ k}
        theirs = ir_measures.calc_aggregate(measures.values(), qrels, run)
        for name, measure in measures.items():
            assert metrics.per_user(ranks, f"{name}@{k}").mean() == pytest.approx(theirs[measure], abs=1e-6)


def test_names_are_those_of_the_contract():
    assert metrics.names() == [f"{m}@{k}" for m in ("hr", "ndcg", "mrr") for k in (1, 5, 10, 20)]
