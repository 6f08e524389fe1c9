"""Neighbours of an item: by a modality's features, by semantic ID, by co-purchase; and what neighbours have in common.

Similarities of all items with all others are never held at once: a few rows at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit.data import Sequences
from musicrec_kit.features import Features
from musicrec_kit.ids.semantic_ids import NULL, SemanticIds

ROWS_AT_ONCE = 1024


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """Return float32 [items, dim], rows scaled to length 1; rows of zeros stay zero."""
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, length, out=np.zeros_like(matrix), where=length > 0)


def nearest(matrix: np.ndarray, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rows, their k nearest other rows by cosine similarity [rows, k]), a few rows at a time."""
    unit = unit_rows(matrix)
    k = min(k, len(unit) - 1)
    for start in range(0, len(unit), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(unit)))
        scores = unit[rows] @ unit.T
        scores[np.arange(len(rows)), rows] = -np.inf
        yield rows, np.argpartition(-scores, k - 1, axis=1)[:, :k]


def features_overview(features: Mapping[str, Features]) -> pd.DataFrame:
    """Return one row per modality: encoder, items, present, dim, alike (mean cosine similarity of two random items)."""
    rows = []
    for modality, found in features.items():
        unit = unit_rows(found.matrix[found.present]).astype(np.float64)
        n = len(unit)
        alike = float(((unit.sum(axis=0) ** 2).sum() - n) / (n * (n - 1))) if n > 1 else float("nan")
        rows.append((modality, found.encoder, len(found.present), n, found.matrix.shape[1], alike))
    return pd.DataFrame(rows, columns=["modality", "encoder", "items", "present", "dim", "alike"])


def shared_labels(features: Mapping[str, Features], labels: Mapping[str, Sequence[Any]], k: int = 5) -> pd.DataFrame:
    """Return how often an item's k nearest neighbours have its label.

    Columns: label; chance (for a random other item); one column per modality. Items without the label or the modality
    are left out.
    """
    rows = []
    for name, values in labels.items():
        codes = pd.factorize(pd.Series(list(values), dtype=object))[0]
        counts = np.bincount(codes[codes >= 0])
        row: dict[str, Any] = {
            "label": name,
            "chance": (counts * (counts - 1)).sum() / (counts.sum() * (counts.sum() - 1)),
        }
        for modality, found in features.items():
            kept = np.flatnonzero(found.present & (codes >= 0))
            own = codes[kept]
            same = [(own[near] == own[rows_][:, None]).mean(axis=1) for rows_, near in nearest(found.matrix[kept], k)]
            row[modality] = float(np.concatenate(same).mean())
        rows.append(row)
    return pd.DataFrame(rows, columns=["label", "chance", *features])


def shared_neighbours(first: np.ndarray, second: np.ndarray, k: int = 10) -> tuple[float, float]:
    """Return (share of an item's k nearest neighbours that are the same in both matrices, the same by chance)."""
    pairs = zip(nearest(first, k), nearest(second, k), strict=True)
    same = [(a[:, :, None] == b[:, None, :]).any(axis=2).mean(axis=1) for (_, a), (_, b) in pairs]
    return float(np.concatenate(same).mean()), min(1.0, k / (len(first) - 1))


def top(scores: np.ndarray, allowed: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (items int64 [<= k], scores) of the best allowed items, ties by item number."""
    items = np.flatnonzero(allowed)
    # float32 products differ in the last bits between machines: near-equal scores are equal, and ordered by number
    order = np.lexsort((items, -np.round(scores[items].astype(np.float64), 6)))[:k]
    return items[order], scores[items[order]]


class Neighbours:
    """What is near an item, in four senses.

    Attributes:
        features: modality -> Features; a modality that is not there gives no neighbours.
        ids: the semantic IDs, or None before stage 04.
    """

    def __init__(
        self, sequences: Sequences, features: Mapping[str, Features] | None = None, ids: SemanticIds | None = None
    ) -> None:
        """Keep the stages' results; matrices are scaled when they are first asked for."""
        self.sequences = sequences
        self.features = dict(features or {})
        self.ids = ids
        self._unit: dict[str, np.ndarray] = {}

    def by_features(self, item: int, modality: str, k: int = 6) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of highest cosine similarity in one modality, and the similarities."""
        found = self.features.get(modality)
        if found is None or not found.present[item]:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        if modality not in self._unit:
            self._unit[modality] = unit_rows(found.matrix)
        scores = self._unit[modality] @ self._unit[modality][item]
        return top(scores, found.present & (np.arange(len(scores)) != item), k)

    def by_id(self, item: int, view: str, k: int = 6) -> tuple[np.ndarray, np.ndarray]:
        """Return the items that share the longest prefix of the ID in a view, and how many levels that is.

        Ties: more equal codes at later levels first, then item number. Items that share nothing are left out.
        """
        assert self.ids is not None
        codes = self.ids.views[view]
        equal = (codes == codes[item]) & (codes != NULL)
        prefix = np.cumprod(equal, axis=1).sum(axis=1)
        scores = prefix + equal.sum(axis=1) / (codes.shape[1] + 1)
        allowed = equal.any(axis=1) & (np.arange(len(codes)) != item)
        items, _ = top(scores, allowed, k)
        return items, prefix[items].astype(np.float32)

    @cached_property
    def _events_by_item(self) -> tuple[np.ndarray, np.ndarray]:
        """(users of the training interactions sorted by item, where each item's begin)."""
        training = self.sequences.in_training
        items, users = self.sequences.items[training], self.sequences.users[training]
        first = np.concatenate([[0], np.cumsum(np.bincount(items, minlength=self.sequences.n_items))])
        return users[np.argsort(items, kind="stable")], first

    def by_copurchase(self, item: int, k: int = 6) -> tuple[np.ndarray, np.ndarray]:
        """Return the items that most users have beside this one in the training part, and how many users that is."""
        users, first = self._events_by_item
        counts = np.zeros(self.sequences.n_items, np.int64)
        for user in np.unique(users[first[item] : first[item + 1]]):
            start, stop = self.sequences.offsets[user], self.sequences.train_end[user]
            counts[np.unique(self.sequences.items[start:stop])] += 1
        items, found = top(counts, (counts > 0) & (np.arange(len(counts)) != item), k)
        return items, found
