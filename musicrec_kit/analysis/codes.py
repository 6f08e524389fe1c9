"""Health of codes: how many are used, how evenly, and how fast prefixes tell items apart."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from musicrec_kit.ids.collisions import group_of
from musicrec_kit.ids.semantic_ids import NULL, SemanticIds


def usage(codes: np.ndarray, sizes: Sequence[int]) -> pd.DataFrame:
    """Return one row per level of codes [items, levels] (-1 where null).

    Columns: level (from 0), size, items, used (codes that occur), top_share (of the most frequent code), entropy
    (bits), perplexity (2 ** entropy: as many equally frequent codes would be as even), prefixes (distinct IDs up to
    this level).

    >>> usage(np.array([[0, 1], [0, 2], [1, 1], [1, 1]]), (4, 4))[["used", "perplexity", "prefixes"]].values.tolist()
    [[2.0, 2.0, 2.0], [2.0, 1.7547653506033232, 3.0]]
    """
    rows = []
    for level, size in enumerate(sizes):
        present = codes[:, level] != NULL
        counts = np.bincount(codes[present, level], minlength=size)
        share = counts[counts > 0] / max(counts.sum(), 1)
        entropy = float(-(share * np.log2(share)).sum())
        rows.append(
            {
                "level": level,
                "size": size,
                "items": int(present.sum()),
                "used": len(share),
                "top_share": float(share.max(initial=0)),
                "entropy": entropy,
                "perplexity": 2**entropy,
                "prefixes": len(np.unique(group_of(codes[present, : level + 1]))),
            }
        )
    return pd.DataFrame(rows)


def usage_per_view(ids: SemanticIds) -> pd.DataFrame:
    """Return `usage` of every view, with the columns view and stream (= modality of the level) before it."""
    tables = []
    for view, codes in ids.views.items():
        streams = [stream for stream, levels in ids.segments[view] for _ in range(levels)]
        table = usage(codes, ids.sizes[view])
        table.insert(0, "view", view)
        table.insert(1, "stream", streams)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def collisions_per_view(ids: SemanticIds) -> pd.DataFrame:
    """Return one row per view: items, distinct IDs and collision rate before and after, items changed and suffixed."""
    rows = []
    for view, record in ids.collisions.items():
        counts = {f"{name}_{when}": record[when][name] for when in ("before", "after") for name in ("distinct", "rate")}
        whole = {name: record[name] for name in ("changed", "suffixed")}
        rows.append({"view": view, "method": record["method"], "items": record["before"]["items"], **counts, **whole})
    return pd.DataFrame(rows)


def items_under(ids: SemanticIds, view: str, prefix: Sequence[int]) -> np.ndarray:
    """Return the items, ascending, whose ID in the view starts with these codes; an empty prefix: all with an ID."""
    codes = ids.views[view]
    return np.flatnonzero((codes[:, : len(prefix)] == np.asarray(prefix, int)).all(axis=1) & ids.has_id(view))


def groups_under(ids: SemanticIds, view: str, prefix: Sequence[int]) -> pd.DataFrame:
    """Return the codes that follow a prefix, most frequent first: code, items, share of the prefix's items."""
    items = items_under(ids, view, prefix)
    following = ids.views[view][items, len(prefix)] if len(prefix) < ids.views[view].shape[1] else items[:0]
    code, count = np.unique(following[following != NULL], return_counts=True)
    table = pd.DataFrame({"code": code, "items": count, "share": count / max(len(items), 1)})
    return table.sort_values(["items", "code"], ascending=[False, True], ignore_index=True)
