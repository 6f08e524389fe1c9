"""What items of one group have in common: the numbers behind pictures of groups (MGR Figures 3(a) and 4).

A grouping is one label per item, int64 [items]; -1: the item is in no group. All pairs are counted, none is drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from musicrec_kit import seeds
from musicrec_kit.analysis.neighbours import unit_rows
from musicrec_kit.features import Features
from musicrec_kit.ids.collisions import group_of
from musicrec_kit.ids.semantic_ids import NULL


def groups_of(codes: np.ndarray, levels: int | None = None) -> np.ndarray:
    """Return the grouping of items by their first `levels` codes (None: all) of codes [items, levels]."""
    chosen = codes[:, :levels]
    return np.where((chosen == NULL).any(axis=1), -1, group_of(chosen))


def pairs_in(groups: np.ndarray) -> int:
    """Return how many pairs of items share a group."""
    counts = np.bincount(groups[groups >= 0]).astype(np.int64)
    return int((counts * (counts - 1)).sum() // 2)


def pairs_alike(groups: np.ndarray, labels: Sequence[Any]) -> float:
    """Return the share of the pairs inside a group whose labels are equal; items without a label (None) are left out.

    >>> pairs_alike(np.array([0, 0, 0, 1]), ["red", "red", "blue", "red"])
    0.3333333333333333
    """
    names = pd.factorize(pd.Series(list(labels), dtype=object))[0]
    kept = (groups >= 0) & (names >= 0)
    both = groups[kept] * (names.max(initial=0) + 1) + names[kept]
    pairs = pairs_in(groups[kept])
    return pairs_in(np.unique(both, return_inverse=True)[1]) / pairs if pairs else float("nan")


def centred_unit(features: Features) -> np.ndarray:
    """Return float64 [items, dim]: features less their mean, scaled to length 1; 0 for an item without the modality.

    Centred, so that two random items have a similarity of 0: encoders put all their outputs into a narrow cone.
    """
    matrix = features.matrix.astype(np.float64)
    centred = matrix - matrix[features.present].mean(axis=0)
    return np.where(features.present[:, None], unit_rows(centred), 0)


def pairs_similarity(groups: np.ndarray, features: Features) -> float:
    """Return the mean cosine similarity of centred features over the pairs inside a group."""
    kept = (groups >= 0) & features.present
    unit, pairs = centred_unit(features)[kept], pairs_in(groups[kept])
    labels = np.unique(groups[kept], return_inverse=True)[1]
    sums = np.zeros((labels.max(initial=-1) + 1, unit.shape[1]))
    np.add.at(sums, labels, unit)
    return float((np.square(sums).sum() - np.square(unit).sum()) / 2 / pairs) if pairs else float("nan")


def what_groups_share(
    groupings: Mapping[str, np.ndarray], labels: Mapping[str, Sequence[Any]], features: Mapping[str, Features]
) -> pd.DataFrame:
    """Return one row per grouping, and one for any two items: groups, pairs, and what the items of a pair share.

    Columns: grouping, groups (of two items or more), pairs; `same <label>`: share of the pairs; `<modality>
    similarity`: mean cosine similarity of centred features.
    """
    n_items = len(next(iter(groupings.values())))
    rows = []
    for name, groups in {**groupings, "any two items": np.zeros(n_items, np.int64)}.items():
        large = int((np.bincount(groups[groups >= 0]) > 1).sum())
        row: dict[str, Any] = {"grouping": name, "groups": large, "pairs": pairs_in(groups)}
        row |= {f"same {label}": pairs_alike(groups, values) for label, values in labels.items()}
        row |= {f"{modality} similarity": pairs_similarity(groups, found) for modality, found in features.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def unlike_pairs(groups: np.ndarray, features: Features, n: int = 3, each: int = 1) -> pd.DataFrame:
    """Return the n pairs of one group whose features differ most: group, a, b (items, a < b), similarity (centred).

    Equal similarities (to six places) are ordered by item number; a group gives at most `each` pairs.
    """
    rows: list[tuple[int, int, int, float]] = []
    unit = centred_unit(features)
    for group in np.unique(groups[groups >= 0]):
        items = np.flatnonzero((groups == group) & features.present)
        a, b = (items[side] for side in np.triu_indices(len(items), 1))
        similarity = np.round((unit[a] * unit[b]).sum(axis=1), 6)
        best = np.lexsort((b, a, similarity))[:each]
        rows += [(int(group), int(a[i]), int(b[i]), float(similarity[i])) for i in best]
    table = pd.DataFrame(rows, columns=["group", "a", "b", "similarity"])
    return table.sort_values(["similarity", "a", "b"], ignore_index=True).head(n)


def pivots(first: np.ndarray, second: np.ndarray, least: int = 6, n: int = 3) -> pd.DataFrame:
    """Return pivot items whose group under `first` has few, some and many items in common with that under `second`.

    The pivots stand at n evenly spaced places among all items that have at least `least` others in both groups, ordered
    by Jaccard of the two groups, then by number: none is picked by its looks. Columns: item, first, second (sizes of
    the groups, the pivot counted), common, jaccard.
    """
    kept = np.flatnonzero((first >= 0) & (second >= 0))
    a, b = (np.bincount(groups[groups >= 0])[groups[kept]] for groups in (first, second))
    both = first[kept] * (second.max(initial=0) + 1) + second[kept]
    labels = np.unique(both, return_inverse=True)[1]
    common = np.bincount(labels)[labels]
    table = pd.DataFrame(
        {"item": kept, "first": a, "second": b, "common": common, "jaccard": common / (a + b - common)}
    )
    table = table[(a > least) & (b > least)].sort_values(["jaccard", "item"], ignore_index=True)
    places = np.unique(np.linspace(0, max(0, len(table) - 1), min(n, len(table))).round().astype(int))
    return table.iloc[places].reset_index(drop=True)


def members(groups: np.ndarray, pivot: int, n: int = 6, seed: int = 0) -> np.ndarray:
    """Return at most n other items of the pivot's group, drawn by the seed, ascending."""
    others = np.flatnonzero((groups == groups[pivot]) & (groups >= 0))
    others = others[others != pivot]
    drawn = seeds.generator(seed, "members", int(pivot)).permutation(others)[:n]
    return np.sort(drawn)
