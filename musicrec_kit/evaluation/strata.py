"""Users by what their target and history are like: a mean over all users hides for whom a method works."""

import numpy as np
import pandas as pd

from musicrec_kit.data.splits import Examples, Sequences
from musicrec_kit.evaluation.counters import popularity

HEAD = 0.2  # of the items that training has seen: the fifth that is taken most


def strata(sequences: Sequences, examples: Examples, has_picture: np.ndarray | None = None) -> pd.DataFrame:
    """Return one bool column per stratum, one row per example.

    Columns: all; cold target (never in training) and warm target; head target (among the fifth of the seen items that
    is taken most, the smaller number first among equals) and tail target (the other warm ones); short history (fewer
    items than the median user has) and long history; target with picture and without, where pictures are known of.

    Args:
        examples: with all earlier items as history (`data.held_out` with no limit).
        has_picture: bool [items].
    """
    counts = popularity(sequences)
    seen = np.flatnonzero(counts)
    order = seen[np.lexsort([seen, -counts[seen]])]
    head = np.zeros(sequences.n_items, bool)
    head[order[: int(np.ceil(HEAD * len(order)))]] = True
    warm = counts[examples.target] > 0
    lengths = examples.end - examples.start
    short = lengths < np.median(lengths) if len(lengths) else np.zeros(0, bool)
    found = {
        "all": np.ones(len(examples), bool),
        "warm target": warm,
        "cold target": ~warm,
        "head target": head[examples.target],
        "tail target": warm & ~head[examples.target],
        "short history": short,
        "long history": ~short,
    }
    if has_picture is not None and has_picture.any():
        shown = has_picture[examples.target]
        found |= {"target with picture": shown, "target without picture": ~shown}
    return pd.DataFrame(found)
