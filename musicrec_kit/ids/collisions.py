"""Collisions: items whose codes are equal, counted and resolved."""

import numpy as np

NULL = -1
SINKHORN_EPSILON, SINKHORN_ITERATIONS, SINKHORN_ROUNDS = 0.003, 50, 20  # LC-Rec's generate_indices (lineage 2.2a)


def group_of(codes: np.ndarray) -> np.ndarray:
    """Return int64 [items]: equal numbers for equal rows of codes [items, levels], numbered in order of the codes."""
    codes = np.asarray(codes)
    if not codes.size:
        return np.zeros(len(codes), np.int64)
    order = np.lexsort(codes.T[::-1])
    ordered = codes[order]
    group = np.empty(len(codes), np.int64)
    group[order] = np.concatenate([[0], np.cumsum((ordered[1:] != ordered[:-1]).any(axis=1))])
    return group


def count(codes: np.ndarray, with_id: np.ndarray | None = None) -> dict[str, float]:
    """Return how many items collide: items with an ID, distinct IDs, rate, items that share theirs, largest group.

    The rate is 1 - distinct / items, as in the lineage (2.1). `with_id` marks the items that have an ID; without it,
    those with any code that is not null.
    """
    with_id = (codes != NULL).any(axis=1) if with_id is None else with_id
    sizes = np.bincount(group_of(codes[with_id]))
    items, distinct = int(sizes.sum()), len(sizes)
    return {
        "items": items,
        "distinct": distinct,
        "rate": 1 - distinct / items if items else 0.0,
        "colliding": int(sizes[sizes > 1].sum()),
        "largest": int(sizes.max(initial=0)),
    }


def suffixes(codes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return int32 [items]: 0 .. n - 1 inside each group of n items with equal codes, in an order that is drawn."""
    draw = generator.permutation(len(codes))
    group = group_of(codes)
    order = np.lexsort([draw, group])
    starts = np.flatnonzero(np.concatenate([[True], np.diff(group[order]) > 0])[: len(codes)])
    suffix = np.empty(len(codes), np.int32)
    suffix[order] = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    suffix[(codes == NULL).all(axis=1)] = 0
    return suffix


def by_distance(
    codes: np.ndarray, items: np.ndarray, distances: np.ndarray, sizes: tuple[int, ...], free_levels: int = 2
) -> np.ndarray:
    raise NotImplementedError


def by_sinkhorn(codes: np.ndarray, items: np.ndarray, distances: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    raise NotImplementedError
