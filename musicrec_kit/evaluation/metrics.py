"""Metrics of one ranked list per user with one target, from the target's rank alone.

A rank counts from 1; 0 means that the target is not in the list.
"""

from collections.abc import Callable

import numpy as np

CUTOFFS = (1, 5, 10, 20)


def hit(rank: np.ndarray, k: int) -> np.ndarray:
    """Return float64 [users]: 1 where the target stands in the first k (HR@k, Recall@k, Hits@k are all this).

    >>> hit(np.array([1, 5, 6, 0]), 5).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    return _inside(rank, k).astype(np.float64)


def ndcg(rank: np.ndarray, k: int) -> np.ndarray:
    """Return float64 [users]: 1 / log2(rank + 1) in the first k, else 0; with one relevant item the ideal is 1.

    >>> ndcg(np.array([1, 3, 6, 0]), 5).tolist()
    [1.0, 0.5, 0.0, 0.0]
    """
    return np.where(_inside(rank, k), 1 / np.log2(np.maximum(rank, 1) + 1), 0.0)


def mrr(rank: np.ndarray, k: int) -> np.ndarray:
    """Return float64 [users]: 1 / rank in the first k, else 0 (MGR's MRR: inside the returned list, lineage 4).

    >>> mrr(np.array([1, 4, 6, 0]), 5).tolist()
    [1.0, 0.25, 0.0, 0.0]
    """
    return np.where(_inside(rank, k), 1 / np.maximum(rank, 1), 0.0)


def _inside(rank: np.ndarray, k: int) -> np.ndarray:
    rank = np.asarray(rank)
    return (rank >= 1) & (rank <= k)


METRICS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"hr": hit, "ndcg": ndcg, "mrr": mrr}


def per_user(rank: np.ndarray, name: str) -> np.ndarray:
    """Return float64 [users] of a metric by its printed name, such as `ndcg@10`."""
    metric, k = name.split("@")
    return METRICS[metric](rank, int(k))


def names() -> list[str]:
    """Return the printed names of all metrics: hr@1, hr@5, ... mrr@20."""
    return [f"{metric}@{k}" for metric in METRICS for k in CUTOFFS]
