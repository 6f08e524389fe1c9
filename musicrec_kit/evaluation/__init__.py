"""Evaluation: full ranking per user, metrics from the target's rank, counters beside every row, paired comparison.

`compare`, `counters` and `metrics` are modules of this room.
"""

from musicrec_kit.evaluation.counters import ItemKNN, Markov, NextNumber, popularity_scores
from musicrec_kit.evaluation.protocol import (
    RankedList,
    Rankings,
    Score,
    per_user_table,
    rank_by_scores,
    ranks_in_lists,
    summarize,
)

__all__ = [
    "ItemKNN",
    "Markov",
    "NextNumber",
    "RankedList",
    "Rankings",
    "Score",
    "per_user_table",
    "popularity_scores",
    "rank_by_scores",
    "ranks_in_lists",
    "summarize",
]
