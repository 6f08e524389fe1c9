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
    return _at(rank, k, np.ones_like)


def ndcg(rank: np.ndarray, k: int) -> np.ndarray:
    """Return float64 [users]: 1 / log2(rank + 1) in the first k, else 0; with one relevant item the ideal is 1.

    >>> ndcg(np.array([1, 3, 6, 0]), 5).tolist()
    [1.0, 0.5, 0.0, 0.0]
    """
    return _at(rank, k, lambda place: 1 / np.log2(place + 1))


def mrr(rank: np.ndarray, k: int) -> np.ndarray:
    """Return float64 [users]: 1 / rank in the first k, else 0 (MGR's MRR: inside the returned list, lineage 4).

    >>> mrr(np.array([1, 4, 6, 0]), 5).tolist()
    [1.0, 0.25, 0.0, 0.0]
    """
    return _at(rank, k, lambda place: 1 / place)


def _at(rank: np.ndarray, k: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the gain of each rank from 1 to k, and 0 for every other: one look-up per user."""
    table = np.zeros(k + 2)
    table[1:-1] = gain(np.arange(1.0, k + 1))
    rank = np.asarray(rank)
    return table.take(np.where(rank > 0, rank, 0), mode="clip")


METRICS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"hr": hit, "ndcg": ndcg, "mrr": mrr}


def per_user(rank: np.ndarray, name: str) -> np.ndarray:
    """Return float64 [users] of a metric by its printed name, such as `ndcg@10`."""
    metric, k = name.split("@")
    return METRICS[metric](rank, int(k))


def names() -> list[str]:
    """Return the printed names of all metrics: hr@1, hr@5, ... mrr@20."""
    return [f"{metric}@{k}" for metric in METRICS for k in CUTOFFS]
