"""Agreement: do two modalities group items alike (AMI), and do two lists serve the same users (overlap)?

AMI is (MI - E[MI]) / (average of the two entropies - E[MI]), with E[MI] under random labels of the same group sizes
(Vinh et al. 2010): 0 for chance, 1 for equal groupings. MGR Table 1 does not state its average; ours is the arithmetic
mean unless said otherwise, and every table names it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, product
from typing import Any, Literal

import numpy as np
import pandas as pd

from musicrec_kit import seeds
from musicrec_kit.evaluation.protocol import RankedList, Rankings
from musicrec_kit.ids.collisions import group_of
from musicrec_kit.ids.semantic_ids import NULL, SemanticIds

Average = Literal["arithmetic", "geometric", "min", "max"]
AVERAGES: dict[str, Callable[[float, float], float]] = {
    "arithmetic": lambda a, b: (a + b) / 2,
    "geometric": lambda a, b: float(np.sqrt(a * b)),
    "min": min,
    "max": max,
}
SHUFFLES = 5
TINY = 1e-9


def adjusted_mutual_information(a: np.ndarray, b: np.ndarray, average_method: Average = "arithmetic") -> float:
    """Return the AMI of two labellings of the same items; NaN where both have one group or both tell every item apart.

    It is 0 where only one of them does: chance alone then explains all that they share. The expectation is summed over
    distinct group sizes, not over pairs of groups, so that thousands of small groups cost no more than a few.
    """
    a, b = (np.unique(np.asarray(labels), return_inverse=True)[1] for labels in (a, b))
    assert len(a) == len(b), f"labels of {len(a)} and of {len(b)} items"
    sizes_a, sizes_b = np.bincount(a), np.bincount(b)
    joint = np.unique(a * max(len(sizes_b), 1) + b, return_counts=True)[1] if len(a) else sizes_a
    entropy_a, entropy_b = _entropy(sizes_a), _entropy(sizes_b)
    expected = _expected_information(sizes_a, sizes_b)
    room = AVERAGES[average_method](entropy_a, entropy_b) - expected
    return float((entropy_a + entropy_b - _entropy(joint) - expected) / room) if room > TINY else float("nan")


def _entropy(counts: np.ndarray) -> float:
    share = counts / max(counts.sum(), 1)
    return float(-(share * np.log(share)).sum())


def _expected_information(sizes_a: np.ndarray, sizes_b: np.ndarray) -> float:
    """Return E[MI] in nats (Vinh et al. 2010, eq. 24a)."""
    from scipy.special import gammaln

    n = int(sizes_a.sum())
    of_b, count_b = np.unique(sizes_b, return_counts=True)
    total = 0.0
    for of_a, count_a in zip(*np.unique(sizes_a, return_counts=True), strict=True):
        common = np.arange(1, min(of_a, of_b.max()) + 1)[:, None]
        possible = (common <= of_b) & (common >= of_a + of_b - n)
        x = np.where(possible, common, np.maximum(1, of_a + of_b - n))  # any legal value; weighed by 0 below
        log_chance = gammaln(of_a + 1) + gammaln(of_b + 1) + gammaln(n - of_a + 1) + gammaln(n - of_b + 1)
        log_chance = log_chance - gammaln(n + 1) - gammaln(x + 1) - gammaln(of_a - x + 1)
        log_chance = log_chance - gammaln(of_b - x + 1) - gammaln(n - of_a - of_b + x + 1)
        term = x / n * np.log(n * x / (of_a * of_b)) * np.exp(log_chance)
        total += count_a * float((np.where(possible, term, 0.0) * count_b).sum())
    return total


def streams_of(ids: SemanticIds) -> dict[str, np.ndarray]:
    """Return stream (= modality) -> codes [items, levels], cut out of the first view that has the stream."""
    found: dict[str, np.ndarray] = {}
    for view, segments in ids.segments.items():
        at = 0
        for stream, levels in segments:
            found.setdefault(stream, ids.views[view][:, at : at + levels])
            at += levels
    return found


def between_streams(ids: SemanticIds, seed: int = 0, average_method: Average = "arithmetic") -> pd.DataFrame:
    """Return the AMI of every pair of streams, per level and per prefix, with its floor (MGR Table 1, lineage row 67).

    Shared levels are equal in all streams by construction, so they are left out, of prefixes, too.
    """
    streams, first = streams_of(ids), ids.shared_levels
    rows: list[dict[str, Any]] = []
    for a, b in combinations(streams, 2):
        for level in range(first, min(streams[a].shape[1], streams[b].shape[1])):
            for labels, start in (("code", level), ("prefix", first)):
                pair = [_labels(streams[name][:, start : level + 1]) for name in (a, b)]
                rows.append({"a": a, "b": b, "level": level, "labels": labels, **_ami(pair, seed, average_method)})
    return pd.DataFrame(rows)


def between_seeds(
    ids: SemanticIds, other: SemanticIds, seed: int = 0, average_method: Average = "arithmetic"
) -> pd.DataFrame:
    """Return the AMI of every stream with itself under another tokenizer seed: the ceiling of `between_streams`."""
    streams, others = streams_of(ids), streams_of(other)
    rows: list[dict[str, Any]] = []
    for name in [name for name in streams if name in others]:
        for level in range(min(streams[name].shape[1], others[name].shape[1])):
            for labels, start in (("code", level), ("prefix", 0)):
                pair = [_labels(codes[name][:, start : level + 1]) for codes in (streams, others)]
                found = _ami(pair, seed, average_method)
                rows.append({"a": name, "b": f"{name}, other seed", "level": level, "labels": labels, **found})
    return pd.DataFrame(rows)


def against_labels(
    ids: SemanticIds, of_items: Sequence[Any], name: str, seed: int = 0, average_method: Average = "arithmetic"
) -> pd.DataFrame:
    """Return the AMI of every stream with labels of the items (a category, another code); None: item left out."""
    groups = pd.factorize(pd.Series(list(of_items), dtype=object))[0]
    rows: list[dict[str, Any]] = []
    for stream, codes in streams_of(ids).items():
        for level in range(codes.shape[1]):
            for labels, start in (("code", level), ("prefix", 0)):
                found = _ami([_labels(codes[:, start : level + 1]), groups], seed, average_method)
                rows.append({"a": stream, "b": name, "level": level, "labels": labels, **found})
    return pd.DataFrame(rows)


def between_labels(
    first: Mapping[str, Sequence[np.ndarray]], seed: int = 0, average_method: Average = "arithmetic"
) -> pd.DataFrame:
    """Return the AMI of named labellings of the items, each given several times, one per tokenizer seed (MGR Table 1).

    One row per pair of names, and one per name with itself where it was given more than once: its ceiling. Labels of
    -1 are left out.

    Columns: a, b, ami (mean over the pairs of their labellings), lowest and highest of these,
    floor (mean with b shuffled), pairs, items, average_method.
    """
    rows = []
    for a, b in combinations_with_replacement(first, 2):
        pairs = list(combinations(first[a], 2)) if a == b else list(product(first[a], first[b]))
        if pairs:
            found = pd.DataFrame([_ami(pair, seed, average_method) for pair in pairs])
            reach = {"lowest": found["ami"].min(), "highest": found["ami"].max(), "floor": found["floor"].mean()}
            about = {"pairs": len(pairs), "items": found["items"].min(), "average_method": average_method}
            rows.append({"a": a, "b": b, "ami": found["ami"].mean(), **reach, **about})
    return pd.DataFrame(rows)


def _labels(codes: np.ndarray) -> np.ndarray:
    """Return one label per item, equal for equal rows of codes; -1 where a code is null."""
    return np.where((codes == NULL).any(axis=1), NULL, group_of(codes))


def _ami(pair: Sequence[np.ndarray], seed: int, average_method: Average) -> dict[str, Any]:
    """Return ami, its floor (the mean with b shuffled over items), the items that have both labels, the average."""
    both = np.all([labels != NULL for labels in pair], axis=0)
    a, b = (labels[both] for labels in pair)
    generator = seeds.generator(seed, "agreement", "floor")
    floor = [adjusted_mutual_information(a, generator.permutation(b), average_method) for _ in range(SHUFFLES)]
    ami = adjusted_mutual_information(a, b, average_method)
    return {"ami": ami, "floor": float(np.mean(floor)), "items": len(a), "average_method": average_method}


@dataclass(frozen=True)
class Overlap:
    """Overlap of two sets of users served.

    Attributes:
        jaccard: both / either (MGR Table 2 as lineage row 70 reads it).
        coefficient: both / the smaller of the two.
        both, either: users.
    """

    jaccard: float
    coefficient: float
    both: int
    either: int


def overlap(hits_a: np.ndarray, hits_b: np.ndarray) -> Overlap:
    """Return the overlap of users with a hit under a and under b, bool [users] each; NaN where nobody has one.

    >>> overlap(np.array([True, True, True, False]), np.array([True, False, False, True]))
    Overlap(jaccard=0.25, coefficient=0.5, both=1, either=4)
    """
    a, b = np.asarray(hits_a, bool), np.asarray(hits_b, bool)
    both, either, smaller = int((a & b).sum()), int((a | b).sum()), int(min(a.sum(), b.sum()))
    return Overlap(both / either if either else np.nan, both / smaller if smaller else np.nan, both, either)


def overlap_of_lists(rankings: Rankings, split: str, lists: Iterable[str], k: int = 5) -> pd.DataFrame:
    """Return `overlap_of` for some lists of one run."""
    return overlap_of({name: rankings.lists[split, name] for name in lists}, k)


def overlap_of(lists: Mapping[str, RankedList], k: int = 5) -> pd.DataFrame:
    """Return the overlap of hits@k for every pair of named lists of the same users, and how often first items agree.

    `jaccard_chance` is the Jaccard index of two lists with as many hits each, whose users have nothing to do with each
    other: p q / (p + q - p q).
    """
    rows = []
    for a, b in combinations(lists, 2):
        one, two = lists[a], lists[b]
        hits = [(ranked.target_rank >= 1) & (ranked.target_rank <= k) for ranked in (one, two)]
        p, q = (float(found.mean()) if len(found) else 0.0 for found in hits)
        chance = p * q / (p + q - p * q) if p + q else np.nan
        top = float((one.items[:, 0] == two.items[:, 0]).mean()) if len(one.items) else np.nan
        found = {**vars(overlap(*hits)), "jaccard_chance": chance, "same_top_item": top}
        rows.append({"a": a, "b": b, "k": k, **found})
    return pd.DataFrame(rows)
