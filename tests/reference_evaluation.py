"""Slow references for the room `evaluation`: sorted lists and loops."""

import math


def metrics(ranked, target, k):
    """Return (hit, ndcg, mrr) at k of one list of items, by walking along it."""
    for place, item in enumerate(ranked[:k]):
        if item == target:
            return 1.0, 1 / math.log2(place + 2), 1 / (place + 1)
    return 0.0, 0.0, 0.0


def rank(scores, target, k, masked=()):
    """Return (list of k items, pessimistic rank of the target) from scores per item."""
    left = [item for item in range(len(scores)) if item not in masked and scores[item] > -math.inf]
    ranked = sorted(left, key=lambda item: (-scores[item], item))[:k]
    if target not in left:
        return ranked, 0
    place = 1 + sum(scores[item] >= scores[target] for item in left if item != target)
    return ranked, place if place <= k else 0


def markov(histories, n_items, history, gaps=3, decay=0.5, window=20):
    """Return the Markov score of every item after one history, from training histories (baselines.md section 6)."""
    counts = [sum(h.count(item) for h in histories) for item in range(n_items)]
    scores = [1e-3 * count / max(1, *counts) for count in counts]
    for h in histories:
        for first in range(len(h)):
            for gap in range(1, gaps + 1):
                if first + gap < len(h):
                    for j, item in enumerate(reversed(history[-window:])):
                        if item == h[first]:
                            scores[h[first + gap]] += decay**j / gap
    return scores
