"""What each level of an item's codes knows: of the features it was made from, and of another modality's.

All on features in their own units, so that settings with other input scaling are held to the same yardstick. R2 is
pooled over columns: 1 - squared error / squared distance to the items' mean.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from musicrec_kit import seeds
from musicrec_kit.features import Features
from musicrec_kit.tokenizers import ItemCodes, Tokenizer

FOLDS = 5
MOST_ITEMS = 2000  # items of a probe, drawn by lot where there are more
MOST_COLUMNS = 128  # principal components of features that stand in for them as a probe's input
PENALTIES = np.logspace(-4, 2, 13)  # of a probe, as multiples of the mean squared singular value


def r_squared(x: np.ndarray, predicted: np.ndarray) -> float:
    """Return the pooled R2 of a prediction of x [items, dim] against x's mean.

    >>> r_squared(np.array([[0.0], [2.0]]), np.array([[0.5], [1.5]]))
    0.75
    """
    x = x.astype(np.float64)
    return float(1 - np.square(x - predicted).sum() / np.square(x - x.mean(axis=0)).sum())


def partial_vectors(tokenizer: Tokenizer, codes: ItemCodes, levels: int) -> dict[str, np.ndarray]:
    """Return z-hat of every stream from its first levels only: shared levels come first, then specific ones."""
    return tokenizer.vectors_of({name: table[:, :levels] for name, table in codes.codes.items()})


def reconstruction(tokenizer: Tokenizer, features: Mapping[str, Features], codes: ItemCodes) -> pd.DataFrame:
    """Return the R2 of what the decoder makes of each item's z-hat, with later levels left out (MusicRec eq. 7).

    Columns: modality; level; shared (True for levels that all modalities share); items; r2; r2_latent (of the decoded
    z, before it is quantised: what the network loses without any code). RK-means has no decoder: z-hat is x-hat.
    """
    latents = tokenizer.decode(tokenizer.latents_of(*_inputs(features)))
    rows = []
    for level in range(max(table.shape[1] for table in codes.codes.values())):
        decoded = tokenizer.decode(partial_vectors(tokenizer, codes, level + 1))
        for name, table in codes.codes.items():
            if level < table.shape[1]:
                kept = features[name].present & (table >= 0).all(axis=1)
                x, row = features[name].matrix[kept], {"modality": name, "level": level}
                row |= {"shared": level < codes.shared_levels, "items": int(kept.sum())}
                r2 = {"r2": r_squared(x, decoded[name][kept]), "r2_latent": r_squared(x, latents[name][kept])}
                rows.append(row | r2)
    return pd.DataFrame(rows).sort_values("modality", kind="stable", key=_order_of(codes), ignore_index=True)


def probe(tokenizer: Tokenizer, features: Mapping[str, Features], codes: ItemCodes, seed: int = 0) -> pd.DataFrame:
    """Return what a linear reader finds of every modality's features in each modality's part of z-hat, level by level.

    Row 2 of `lineage.md` 5.1: does image content leak into the "text" half? Shared codes are chosen by all modalities,
    so some must; how much is seen against r2_features. z-hat is a sum, in which a fine level can blur a coarse one for
    a linear reader: r2 need not rise from level to level.

    Columns: z_hat (whose part is read); of (whose features are predicted); level; shared; items; r2 (ridge, on items
    left out in 5-fold cross-validation); r2_latent (from the part of z, before it is quantised); r2_features (from the
    features of `z_hat` themselves: more than this has leaked, or was made easier to read by the encoder).
    """
    masks = [f.present for f in features.values()] + [(table >= 0).all(axis=1) for table in codes.codes.values()]
    kept = np.flatnonzero(np.logical_and.reduce(masks))
    kept = np.sort(seeds.generator(seed, "levels", "items").permutation(kept)[:MOST_ITEMS])
    targets = {name: features[name].matrix[kept].astype(np.float64) for name in codes.codes}
    latents = tokenizer.latents_of(*_inputs(features))
    rows = []
    for name, table in codes.codes.items():
        from_z = _read(latents[name][kept], targets, seed)
        from_x = _read(_components(targets[name]), targets, seed)
        for level in range(table.shape[1]):
            z_hat = partial_vectors(tokenizer, codes, level + 1)[name][kept]
            for other, r2 in _read(z_hat, targets, seed).items():
                row = {"z_hat": name, "of": other, "level": level, "shared": level < codes.shared_levels}
                row |= {"items": len(kept), "r2": r2, "r2_latent": from_z[other], "r2_features": from_x[other]}
                rows.append(row)
    return pd.DataFrame(rows).sort_values(["z_hat", "of"], kind="stable", key=_order_of(codes), ignore_index=True)


def known(tokenizer: Tokenizer, features: Mapping[str, Features], codes: ItemCodes, seed: int = 0) -> pd.DataFrame:
    """Return `probe` with two columns of `reconstruction`: decoded and decoded_latent (NaN for another modality's)."""
    names = {"modality": "z_hat", "r2": "decoded", "r2_latent": "decoded_latent"}
    own = reconstruction(tokenizer, features, codes).rename(columns=names).assign(of=lambda table: table["z_hat"])
    own = own[["z_hat", "of", "level", "decoded", "decoded_latent"]]
    return probe(tokenizer, features, codes, seed).merge(own, how="left", on=["z_hat", "of", "level"])


def _order_of(codes: ItemCodes) -> Callable[[pd.Series], pd.Series]:
    return lambda column: column.map({name: place for place, name in enumerate(codes.codes)})


def _inputs(features: Mapping[str, Features]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return {n: f.matrix for n, f in features.items()}, {n: f.present for n, f in features.items()}


def _components(x: np.ndarray) -> np.ndarray:
    """Return the first principal components of features, [items, at most MOST_COLUMNS]."""
    from sklearn.utils.extmath import randomized_svd

    left, sizes, _ = randomized_svd(x - x.mean(axis=0), min(MOST_COLUMNS, *x.shape), random_state=0)
    return left * sizes


def _read(inputs: np.ndarray, targets: Mapping[str, np.ndarray], seed: int) -> dict[str, float]:
    """Return target -> R2 of ridge regression on items that it was not fitted on."""
    fold = seeds.generator(seed, "levels", "folds").permutation(len(inputs)) % FOLDS
    predicted = {name: np.zeros_like(x) for name, x in targets.items()}
    for left_out in range(FOLDS):
        out = fold == left_out
        reader = Ridge(inputs[~out])
        for name, x in targets.items():
            predicted[name][out] = reader.predict(x[~out], inputs[out])
    return {name: r_squared(x, predicted[name]) for name, x in targets.items()}


class Ridge:
    """Ridge regression on inputs [items, width] whose decomposition serves every target."""

    def __init__(self, inputs: np.ndarray) -> None:
        """Decompose the inputs; directions in which they do not vary are left out."""
        self.centre = inputs.mean(axis=0, dtype=np.float64)
        left, sizes, right = np.linalg.svd(inputs - self.centre, full_matrices=False)
        kept = sizes > 1e-9 * max(sizes.max(initial=0), 1e-30)
        self.left, self.sizes, self.right = left[:, kept], sizes[kept], right[kept]

    def predict(self, x: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Return the prediction of x [items, dim] for new inputs; generalised cross-validation chooses the penalty."""
        mean = x.mean(axis=0)
        along, squares = self.left.T @ (x - mean), np.square(self.sizes)
        penalties = PENALTIES * (squares.mean() if len(squares) else 1.0)
        shrink = squares / (squares + penalties[:, None])
        errors = np.square(x - mean).sum() - ((2 * shrink - shrink**2) * np.square(along).sum(axis=1)).sum(axis=1)
        best = shrink[np.argmin(errors / np.square(len(x) - 1 - shrink.sum(axis=1)).clip(1e-9))]
        return mean + (new - self.centre) @ self.right.T @ ((best / self.sizes)[:, None] * along)
