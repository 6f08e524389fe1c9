"""Slow and plain versions of what the tokenizers room vectorises."""

import math

import numpy as np


def sinkhorn(distances: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Return the codes of LC-Rec's procedure: the whole plan, scaled by rows and columns in turn, item by item."""
    d = distances.astype(np.float64)
    middle = (d.max() + d.min()) / 2
    d = (d - middle) / (d.max() - middle + 1e-5)
    plan = np.exp(-d / epsilon)
    plan /= plan.sum()
    batch, codes = plan.shape
    for _ in range(iterations):
        for i in range(batch):
            plan[i] /= plan[i].sum() * batch
        for j in range(codes):
            plan[:, j] /= plan[:, j].sum() * codes
    return plan.argmax(1)


def residual_codes(vectors: np.ndarray, codebooks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes, sums of codes and every level's squared distances, one vector at a time in double precision."""
    codes, sums, tables = [], [], []
    for vector in vectors.astype(np.float64):
        residual, picked, table = vector.copy(), [], []
        for book in codebooks:
            d = [math.fsum((residual - code) ** 2) for code in book.astype(np.float64)]
            picked.append(int(np.argmin(d)))
            table.append(d)
            residual = residual - book[picked[-1]]
        codes.append(picked)
        sums.append(vector - residual)
        tables.append(table)
    return np.array(codes), np.array(sums), np.array(tables)


def kmeans_plus_plus(points: np.ndarray, codes: int) -> dict[frozenset, float]:
    """Return the probability of every set of k-means++ seeds, by walking through all orders of drawing."""
    found: dict[frozenset, float] = {}

    def draw(chosen: tuple[int, ...], chance: float) -> None:
        if len(chosen) == codes:
            found[frozenset(chosen)] = found.get(frozenset(chosen), 0.0) + chance
            return
        near = np.array([min(((p - points[c]) ** 2).sum() for c in chosen) for p in points])
        for i in np.flatnonzero(near):
            draw((*chosen, int(i)), chance * near[i] / near.sum())

    for first in range(len(points)):
        draw((first,), 1 / len(points))
    return found
