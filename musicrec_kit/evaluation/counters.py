"""Counters: rows that need no training. Any learnt row below them is a red flag (baselines.md section 6)."""

import numpy as np
from scipy import sparse

from musicrec_kit.data.splits import Examples, Sequences
from musicrec_kit.evaluation.protocol import Score, history_entries

POPULARITY_WEIGHT = 1e-3  # orders items that no transition reaches; below every transition's weight


def popularity(sequences: Sequences) -> np.ndarray:
    """Return float64 [items]: how often each item stands in the training part."""
    return np.bincount(sequences.items[sequences.in_training], minlength=sequences.n_items).astype(np.float64)


def popularity_scores(sequences: Sequences) -> Score:
    """Return a score that is the same for every history: the item's popularity in training."""
    counts = popularity(sequences).astype(np.float32)
    return lambda examples: np.broadcast_to(counts, (len(examples), len(counts)))


def transitions(sequences: Sequences, gaps: int) -> sparse.csr_matrix:
    """Return M [items, items]: the sum of 1 / g over training pairs where the second follows the first by g <= gaps."""
    items, users = sequences.items, sequences.users
    shape = (sequences.n_items, sequences.n_items)
    total = sparse.csr_matrix(shape, dtype=np.float64)
    for gap in range(1, gaps + 1):
        inside = sequences.in_training[gap:] & (users[gap:] == users[:-gap])
        first, second = items[:-gap][inside], items[gap:][inside]
        total = total + sparse.coo_matrix((np.full(len(first), 1 / gap), (first, second)), shape=shape).tocsr()
    return total


class Markov:
    """Markov-3 (baselines.md section 6): score(b | history) = sum_j decay^j M[h_(n-j), b] + 1e-3 pop(b) / max pop.

    j counts back from the newest item of the history and stops at `window`.
    """

    def __init__(self, sequences: Sequences, gaps: int = 3, decay: float = 0.5, window: int = 20):
        """Count the training part of `sequences`."""
        self.sequences, self.decay, self.window = sequences, decay, window
        self.transitions = transitions(sequences, gaps)
        counts = popularity(sequences)
        self.prior = POPULARITY_WEIGHT * counts / max(counts.max(initial=0), 1)

    def __call__(self, examples: Examples) -> np.ndarray:
        """Return scores float64 [examples, items]; float32 would tie items that differ."""
        row, item, back = history_entries(self.sequences, examples, self.window)
        shape = (len(examples), self.sequences.n_items)
        weights = sparse.coo_matrix((self.decay**back, (row, item)), shape=shape).tocsr()
        return (weights @ self.transitions).toarray() + self.prior


class ItemKNN:
    """Item neighbours: score(b | history) = sum of cosine(a, b) over the items a of the history ("ours").

    cosine(a, b) = |users of both| / (sqrt(|users of a| |users of b|) + shrink) in the training part. An item of the
    history speaks for its `neighbours` nearest alone (RecBole keeps those of the target), the one with the smaller
    number first where two are as near.
    """

    def __init__(self, sequences: Sequences, neighbours: int = 100, shrink: float = 0.0):
        """Count the training part of `sequences`."""
        self.sequences = sequences
        inside = sequences.in_training
        shape = (sequences.n_users, sequences.n_items)
        entries = (np.ones(inside.sum()), (sequences.users[inside], sequences.items[inside]))
        took = (sparse.coo_matrix(entries, shape=shape).tocsr() > 0).astype(np.float64)
        norms = np.sqrt(np.asarray(took.sum(axis=0)).ravel())
        both = (took.T @ took).tocoo()
        other = both.row != both.col
        row, col, count = both.row[other], both.col[other], both.data[other]
        near = count / (norms[row] * norms[col] + shrink)
        order = np.lexsort([col, -near, row])
        row, col, near = row[order], col[order], near[order]
        kept = np.arange(len(row)) - np.searchsorted(row, row) < neighbours
        square = (sequences.n_items, sequences.n_items)
        self.near = sparse.coo_matrix((near[kept], (row[kept], col[kept])), shape=square).tocsr()

    def __call__(self, examples: Examples) -> np.ndarray:
        """Return scores float64 [examples, items]."""
        row, item, _ = history_entries(self.sequences, examples)
        shape = (len(examples), self.sequences.n_items)
        took = sparse.coo_matrix((np.ones(len(row)), (row, item)), shape=shape).tocsr()
        return (took @ self.near).toarray()


class NextNumber:
    """A probe, no method: the items numbered just above the newest of the history, the nearest first.

    Files that number items by their first appearance in whole sequences, targets and all, tell by these numbers what
    comes next. What this reaches above chance, any method whose tokens show digits of the numbers can reach by them.
    """

    def __init__(self, sequences: Sequences):
        """Read nothing but the histories of `sequences`."""
        self.sequences = sequences

    def __call__(self, examples: Examples) -> np.ndarray:
        """Return scores float64 [examples, items]; -inf below the newest item, and without one."""
        newest = self.sequences.items[np.maximum(examples.end - 1, 0)].astype(np.int64)
        above = np.arange(self.sequences.n_items) - newest[:, None]
        known = (examples.end > examples.start)[:, None]
        return np.where((above > 0) & known, -above.astype(np.float64), -np.inf)
