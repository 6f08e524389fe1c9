"""Codes of several tokenizers side by side: how many items change their code."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from musicrec_kit import seeds
from musicrec_kit.analysis.agreement import SHUFFLES, adjusted_mutual_information
from musicrec_kit.ids.collisions import group_of
from musicrec_kit.tokenizers import ItemCodes


def chains(codes: ItemCodes) -> dict[str, tuple[np.ndarray, range]]:
    """Return where each level is chosen: "shared", then each stream -> (codes [items, levels], its own levels)."""
    shared = codes.shared_levels
    found: dict[str, tuple[np.ndarray, range]] = {}
    for name, table in codes.codes.items():
        if shared:
            found.setdefault("shared", (table, range(shared)))
        found[name] = (table, range(shared, table.shape[1]))
    return found


def churn(first: ItemCodes, second: ItemCodes, seed: int = 0) -> pd.DataFrame:
    """Return how many items change their code from one tokenizer to another, per stream and level.

    What a code is called means nothing: another seed gives the same groups other numbers. So groupings are compared.
    Columns: stream ("shared" for shared levels); level; items; moved (share of items outside their group when the codes
    of one are matched to those of the other one to one, as well as possible: Hungarian assignment; the nearest to
    "items whose code changes") and moved_chance (the same for shuffled items: matching finds something in noise);
    ami_loss (1 - AMI of the level alone: corrected for chance, needs no matching) and ami_loss_id (1 - AMI of the ID up
    to the level, NaN where all IDs differ: such groupings agree whatever they mean).
    """
    generator, others, rows = seeds.generator(seed, "mechanism", "churn"), chains(second), []
    for name, (table, levels) in chains(first).items():
        other, own = others[name]
        assert levels == own, f"{name} has levels {levels} and {own}"
        both = (table >= 0).all(axis=1) & (other >= 0).all(axis=1)
        for level in levels:
            a, b = table[both, level], other[both, level]
            row = {"stream": name, "level": level, "items": int(both.sum()), "moved": moved(a, b)}
            row |= {"moved_chance": float(np.mean([moved(a, generator.permutation(b)) for _ in range(SHUFFLES)]))}
            ids = group_of(table[both, : level + 1]), group_of(other[both, : level + 1])
            losses = {"ami_loss": 1 - adjusted_mutual_information(a, b)}
            rows.append({**row, **losses, "ami_loss_id": 1 - adjusted_mutual_information(ids[0], ids[1])})
    return pd.DataFrame(rows)


def moved(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share of items that leave their group under the best one-to-one matching of the labels.

    >>> moved(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 5]))
    0.25
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array

    a, b = (np.unique(labels, return_inverse=True)[1] for labels in (a, b))
    counts = coo_array((np.ones(len(a)), (a, b))).toarray()
    return 1 - float(counts[linear_sum_assignment(counts, maximize=True)].sum()) / len(a)


def churn_of_changes(changes: Mapping[str, Sequence[tuple[ItemCodes, ItemCodes]]], seed: int = 0) -> pd.DataFrame:
    """Return `churn` of several changes side by side: means over each one's pairs of tokenizers, and the range.

    An effect on the codes is noise where it is no larger than the churn between seeds, and certainly where it is no
    larger than that of a nudge: a weight far too small to matter, after which training takes another way all the same.

    Args:
        changes: such as {"beta = 0": [(with, without), ...], "another seed": [...], "a nudge": [...]}.
    """
    tables = []
    for name, pairs in changes.items():
        table = pd.concat([churn(first, second, seed) for first, second in pairs])
        grouped = table.groupby(["stream", "level"], sort=False)
        means = grouped.mean().assign(**{"moved low": grouped["moved"].min(), "moved high": grouped["moved"].max()})
        tables.append(
            means.reset_index().assign(change=name, pairs=len(pairs), items=grouped["items"].min().to_numpy())
        )
    order = ["change", "pairs", "stream", "level", "items", "moved", "moved low", "moved high", "moved_chance"]
    return pd.concat(tables, ignore_index=True)[[*order, "ami_loss", "ami_loss_id"]]
