"""The health of codes: how many are used, how evenly, and how many items collide (`lineage.md` 6.2)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from musicrec_kit.sorted_rows import sort_rows
from musicrec_kit.tokenizers.codes import ItemCodes

SHARE = 0.1  # of the usable codes; a level that uses fewer has collapsed


class CollapsedError(RuntimeError):
    """A tokenizer that the kit trained uses too few codes of a level."""


def usage(codes: ItemCodes) -> pd.DataFrame:
    """Return one row per stream and level.

    Columns: stream; level (from 0); items (with a code there); codes (size of the codebook); used; perplexity (exp of
    the entropy in nats: the number of codes if all were used alike); top_share (of the items, in the most used code);
    prefixes (distinct first level + 1 codes); collisions (items - prefixes); collision_rate (their share);
    largest_group (items with one prefix).
    """
    rows = []
    for stream, every in codes.codes.items():
        found = sort_rows(every)
        for level in range(every.shape[1]):
            coded = every[:, level] >= 0
            table = every if coded.all() else every[coded]
            share = np.bincount(table[:, level]) / max(1, len(table))
            used = share[share > 0]
            groups = (found if coded.all() else sort_rows(table)).sizes(level)
            rows.append(
                {
                    "stream": stream,
                    "level": level,
                    "items": len(table),
                    "codes": codes.sizes[stream][level],
                    "used": len(used),
                    "perplexity": float(np.exp(-(used * np.log(used)).sum())),
                    "top_share": float(used.max(initial=0)),
                    "prefixes": len(groups),
                    "collisions": len(table) - len(groups),
                    "collision_rate": (len(table) - len(groups)) / max(1, len(table)),
                    "largest_group": int(groups.max(initial=0)),
                }
            )
    return pd.DataFrame(rows)


def collision_rate(tables: Mapping[str, np.ndarray]) -> float:
    """Return 1 - unique codes / items, averaged over the streams: what chooses the checkpoint."""
    rates = [1 - len(sort_rows(table).sizes()) / len(table) for table in tables.values()]
    return float(np.mean(rates))


def check_collapse(health: pd.DataFrame) -> None:
    """Stop where a level uses fewer than a tenth of the codes that it could: min(codes, items).

    Raises:
        CollapsedError: naming the worst level and what to try.
    """
    shares = health["used"] / health[["codes", "items"]].min(axis=1).clip(lower=1)
    bad = health[shares < SHARE]
    if len(bad):
        worst = health.iloc[int(shares.argmin())]
        raise CollapsedError(
            f"the tokenizer collapsed: stream {worst['stream']!r}, level {worst['level']} uses {worst['used']} of "
            f"{min(worst['codes'], worst['items'])} usable codes ({len(bad)} of {len(health)} levels are under "
            f"{SHARE:.0%}). Try tokenizer.scaling=columns, tokenizer.dead_codes=revive, tokenizer.init=kmeans or "
            f"fewer tokenizer.codes; tokenizer.allow_collapse=true goes on with these codes"
        )
