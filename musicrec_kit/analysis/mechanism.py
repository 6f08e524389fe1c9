"""The mechanism's own numbers: does the item tokenizer do what its losses promise? (`science.md` section 2)

Nothing here looks at a recommendation: z-hat is compared with z_cf, and the terms' gradients with each other. Codes of
several tokenizers are compared in `churn.py`; what each level knows of the features is in `levels.py`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from musicrec_kit import seeds, tokenizers
from musicrec_kit.analysis.neighbours import ROWS_AT_ONCE, unit_rows
from musicrec_kit.features import Features
from musicrec_kit.params import TokenizerParams
from musicrec_kit.sequential import ItemVectors
from musicrec_kit.tokenizers import ItemCodes, Tokenizer

MANTEL_SHUFFLES = 20  # shuffles of items behind a chance level
Similarity = Callable[[np.ndarray], np.ndarray]  # rows -> similarities [rows, items]


# --- z-hat and z_cf --------------------------------------------------------------------------------------------------


def hold_back(vectors: ItemVectors, share: float = 0.3, seed: int = 0) -> tuple[ItemVectors, np.ndarray]:
    """Return the vectors with a share of the items hidden from both CF losses, and bool [items] of those hidden.

    Items are split, not pairs: a tokenizer fitted on the result reads the features of a hidden item, and never its
    z_cf in any pair. Only items seen in training have a z_cf that can be hidden.
    """
    known = np.flatnonzero(vectors.present)
    hidden = np.zeros(len(vectors.present), bool)
    hidden[seeds.generator(seed, "mechanism", "hidden").permutation(known)[: round(share * len(known))]] = True
    return ItemVectors(vectors.vectors, vectors.present & ~hidden), hidden


class Refit(NamedTuple):
    """A tokenizer fitted once more, its codes, and z-hat by stream."""

    tokenizer: Tokenizer
    codes: ItemCodes
    quantized: dict[str, np.ndarray]


def refits(
    features: Mapping[str, Features],
    vectors: ItemVectors | None,
    params: TokenizerParams,
    changes: Mapping[str, Mapping[str, Any]],
    seed: int = 0,
    device: str = "cpu",
    most_steps: int | None = None,
) -> dict[str, Refit]:
    """Fit the tokenizer once per change of its settings (`{"beta = 0": {"beta": 0.0}}`), in memory, and return all.

    Args:
        vectors: with items held back, where z-hat is to be compared with z_cf on them.
        most_steps: cut every training to about as many steps (whole epochs), so that a look stays cheap.
    """
    n_items = len(next(iter(features.values())).matrix)
    steps = math.ceil(n_items / params.batch)
    epochs = params.epochs if most_steps is None else min(params.epochs, math.ceil(most_steps / steps))
    made = {}
    for name, change in changes.items():
        changed = params.model_copy(update={"epochs": epochs, "allow_collapse": True, **change})
        tokenizer, codes = tokenizers.fit(features, vectors, changed, None, seed, device)
        assert isinstance(tokenizer, Tokenizer), "a tokenizer of clusters has no vectors to look at"
        made[name] = Refit(tokenizer, codes, tokenizer.vectors_of(codes))
    return made


def agreement_with_vectors(
    quantized: Mapping[str, np.ndarray],
    vectors: ItemVectors,
    held_out: np.ndarray | None = None,
    k: int = 10,
    pairs: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return whether items alike by z_cf are alike by z-hat: one row per form of z-hat and part of the items.

    Columns: part ("all", or "seen" and "held out": both items of every pair and neighbourhood are of the part); z_hat
    (each stream, joint = side by side, mean); items; k, neighbours (share of an item's k nearest by cosine that are the
    same) and neighbours_chance (k / (items - 1): exactly what shuffled items give); pairs, spearman (rank correlation
    of the pairs' cosines), spearman_chance and spearman_spread (mean and deviation over shuffled items, as in Mantel's
    test: pairs are not independent, so a correlation within two spreads of chance is none).

    Args:
        vectors: with the z_cf of all items that have one, those held out included.
        held_out: bool [items], from `hold_back`.
    """
    known = vectors.present | (held_out if held_out is not None else False)
    parts = {"all": known} if held_out is None else {"seen": known & ~held_out, "held out": held_out}
    rows = []
    for part, kept in parts.items():
        for name, matrix in forms(quantized).items():
            items = np.flatnonzero(kept & np.isfinite(matrix).all(axis=1))
            if len(items) > 2:
                found = _agreement(matrix[items], vectors.vectors[items], k, pairs, seed)
                rows.append({"part": part, "z_hat": name, "items": len(items), **found})
    return pd.DataFrame(rows)


def agreement_of_refits(
    fits: Mapping[str, Refit], vectors: ItemVectors, held_out: np.ndarray, k: int = 10, seed: int = 0
) -> pd.DataFrame:
    """Return `agreement_with_vectors` of every refit, with a column `change`."""
    tables = {
        name: agreement_with_vectors(fit.quantized, vectors, held_out, k, seed=seed) for name, fit in fits.items()
    }
    return pd.concat([table.assign(change=name) for name, table in tables.items()], ignore_index=True)


def forms(quantized: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return z-hat as one vector per item: each stream's, side by side ("joint"), and the mean where widths agree."""
    found = dict(quantized)
    if len(found) > 1:
        streams = list(quantized.values())
        found["joint"] = np.concatenate(streams, axis=1)
        if len({stream.shape[1] for stream in streams}) == 1:
            found["mean"] = np.mean(streams, axis=0)
    return found


def _agreement(ours: np.ndarray, theirs: np.ndarray, k: int, most_pairs: int, seed: int) -> dict[str, Any]:
    n = len(ours)
    k = min(k, n - 2)
    pairs = item_pairs(n, most_pairs, seed)
    ranks = _ranks(pair_similarities(ours, pairs))
    generator = seeds.generator(seed, "mechanism", "shuffles")
    orders = [np.arange(n), *(generator.permutation(n) for _ in range(MANTEL_SHUFFLES))]
    unit = unit_rows(theirs)
    found = [float((ranks * _ranks(pair_similarities(unit[order], pairs))).mean()) for order in orders]
    return {
        "k": k,
        "neighbours": neighbour_overlap(cosine(ours), cosine(theirs), n, k),
        "neighbours_chance": k / (n - 1),
        "pairs": len(pairs),
        "spearman": found[0],
        "spearman_chance": float(np.mean(found[1:])),
        "spearman_spread": float(np.std(found[1:], ddof=1)),
    }


def item_pairs(n: int, most: int, seed: int = 0) -> np.ndarray:
    """Return different pairs of n items, int64 [pairs, 2]: all of them, or where they are more, about `most` by lot."""
    if n * (n - 1) // 2 <= most:
        return np.stack(np.triu_indices(n, 1), axis=1)
    generator = seeds.generator(seed, "mechanism", "pairs")
    first = generator.integers(0, n, most)
    second = (first + generator.integers(1, n, most)) % n
    return np.unique(np.sort(np.stack([first, second], axis=1), axis=1), axis=0)


def pair_similarities(matrix: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows."""
    unit = unit_rows(matrix)
    return np.round((unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(axis=1), 6)  # equal codes give equal similarities


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks (ties share theirs), with mean 0 and mean square 1; all 0 where nothing differs."""
    from scipy.stats import rankdata

    ranks = rankdata(values) - (len(values) + 1) / 2
    size = np.sqrt(np.square(ranks).mean())
    return ranks / size if size else ranks


def neighbour_overlap(first: Similarity, second: Similarity, n: int, k: int = 10) -> float:
    """Return the share of an item's k nearest others that two similarities of n items have in common.

    Ties are broken by lot, in expectation: items of equal codes are equally near, and their order must not count.
    """
    common = 0.0
    for start in range(0, n, ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, n))
        one, other = (_chance_to_be_near(similar(rows), rows, k) for similar in (first, second))
        common += float((one * other).sum())
    return common / (n * k)


def _chance_to_be_near(scores: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    scores[np.arange(len(rows)), rows] = -np.inf
    last = -np.partition(-scores, k - 1, axis=1)[:, k - 1, None]
    above, tied = scores > last, scores == last
    return above + tied * (k - above.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)


def cosine(matrix: np.ndarray) -> Similarity:
    """Return the cosine similarity of rows."""
    unit = unit_rows(matrix)
    return lambda rows: np.round(unit[rows] @ unit.T, 6)


def common_prefix(codes: np.ndarray) -> Similarity:
    """Return the number of first levels in which two rows of codes are equal."""

    def similar(rows: np.ndarray) -> np.ndarray:
        equal, depth = np.ones((len(rows), len(codes)), bool), np.zeros((len(rows), len(codes)), np.float32)
        for level in codes.T:
            equal &= level[rows][:, None] == level
            depth += equal
        return depth

    return similar


def signature(codes: ItemCodes, quantized: Mapping[str, np.ndarray], vectors: ItemVectors, k: int = 10) -> pd.Series:
    """Return what the extra losses should raise, over the items that have z_cf and all modalities.

    perplexity (mean over streams and levels: diversity); neighbours and spearman of z-hat side by side with z_cf
    (alpha, beta); code_neighbours (neighbours by common prefix of the codes, mean over streams); own_vector (share of
    the other items whose z_cf is farther from the mean of an item's z-hats than its own: .5 by chance, NaN where widths
    differ). Neighbours do not see a loss of the wrong sign: vectors turned away from z_cf have the same ones.
    """
    streams = list(quantized.values())
    items = np.flatnonzero(vectors.present & np.isfinite(np.concatenate(streams, axis=1)).all(axis=1))
    theirs = vectors.vectors[items]
    form = "joint" if len(streams) > 1 else next(iter(quantized))
    found = agreement_with_vectors(quantized, vectors, k=k).set_index("z_hat").loc[form]
    near = [neighbour_overlap(common_prefix(c[items]), cosine(theirs), len(items), k) for c in codes.codes.values()]
    values = {"perplexity": tokenizers.usage(codes)["perplexity"].mean(), "code_neighbours": np.mean(near)}
    values |= {"neighbours": found["neighbours"], "spearman": found["spearman"], "own_vector": np.nan}
    if all(stream.shape[1] == theirs.shape[1] for stream in streams):
        scores = unit_rows(np.mean(streams, axis=0)[items]) @ unit_rows(theirs).T
        own = np.diag(scores)[:, None]
        values["own_vector"] = (
            ((scores < own).sum() + 0.5 * ((scores == own).sum() - len(own))) / own.size / (own.size - 1)
        )
    return pd.Series(values, dtype=float)


# --- the pull of each term -------------------------------------------------------------------------------------------


def gradient_norms(log: pd.DataFrame) -> pd.DataFrame:
    """Return how hard each weighted term of the loss pulls, from a tokenizer's training log (`tables.training_log`).

    Columns: part; side (encoder, codebooks); term; checks; first, median and last norm; of_largest (mean over the
    checks of the norm over that of the strongest term on the side: below a thousandth, a term is decoration).
    """
    rows = []
    for part, lines in log.groupby("part", sort=False):
        for side in ("encoder", "codebooks"):
            names = [name for name in log.columns if name.startswith("gradient/") and name.endswith(f"/{side}")]
            norms = lines[names].dropna(how="all").dropna(axis=1, how="all")
            shares = norms.div(norms.max(axis=1), axis=0)
            for name in norms:
                values = norms[name].to_numpy()
                row = {"part": part, "side": side, "term": str(name).split("/")[1], "checks": len(values)}
                row |= {"first": values[0], "median": float(np.median(values)), "last": values[-1]}
                rows.append({**row, "of_largest": float(shares[name].mean())})
    columns = ["part", "side", "term", "checks", "first", "median", "last", "of_largest"]
    return pd.DataFrame(rows, columns=columns)
