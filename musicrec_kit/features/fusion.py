"""Early fusion: one matrix out of several modalities (MGR-EF)."""

from collections.abc import Mapping, Sequence

import numpy as np

from musicrec_kit.features.store import Features


def early_fusion(
    features: Mapping[str, Features],
    modality: str = "joint",
    weights: Sequence[float] = (),
    among: np.ndarray | None = None,
) -> Features:
    """Return one joint matrix of several modalities (lineage.md row 52).

    Equal widths (the two towers of a CLIP): mean of the L2-normalised rows of the modalities that the item has.
    Else: centred rows side by side, each modality scaled to a total variance of 1; a missing one stands at its mean, 0.

    Args:
        weights: of the mean, or of the modalities' standard deviations; empty: equal. With a weight of 0 the item needs
            one of the others.
        among: bool [items], the items that centres and variances are measured on; None: all.
    """
    assert features, "nothing to fuse"
    given = np.array(weights or [1.0] * len(features), np.float64)
    given *= len(given) / given.sum()
    parts = [part for part, weight in zip(features.values(), given, strict=True) if weight]
    given = given[given > 0]
    present = np.logical_or.reduce([part.present for part in parts])
    if len({part.dim for part in parts}) == 1:
        how, matrix = "mean", _mean_of_directions(parts, given)
    else:
        scaled = [weight * _unit_variance(part, among) for part, weight in zip(parts, given, strict=True)]
        how, matrix = "concatenated", np.concatenate(scaled, axis=1)
    matrix = np.where(present[:, None], matrix, 0).astype(np.float32)
    return Features(modality, matrix, present, f"{how}({', '.join(part.encoder for part in parts)})")


def _mean_of_directions(parts: list[Features], weights: np.ndarray) -> np.ndarray:
    total = np.zeros(parts[0].matrix.shape)
    for part, weight in zip(parts, weights, strict=True):
        norm = np.linalg.norm(part.matrix.astype(np.float64), axis=1, keepdims=True)
        total += np.where(part.present[:, None], weight * part.matrix / np.maximum(norm, 1e-12), 0)
    share = weights @ np.stack([part.present for part in parts])
    return total / np.where(share > 0, share, 1)[:, None]


def _unit_variance(part: Features, among: np.ndarray | None) -> np.ndarray:
    rows, measured = part.matrix.astype(np.float64), part.present if among is None else part.present & among
    measured = measured if measured.any() else part.present  # known of items that nobody took yet alone
    centred = rows - rows[measured].mean(axis=0)
    scale = np.sqrt(centred[measured].var(axis=0).sum())
    return np.where(part.present[:, None], centred / max(scale, 1e-12), 0)
