"""Early fusion: one matrix out of several modalities (MGR-EF)."""

from collections.abc import Mapping

import numpy as np

from musicrec_kit.features.store import Features


def early_fusion(features: Mapping[str, Features], modality: str = "joint") -> Features:
    """Return one joint matrix of several modalities (lineage.md row 52).

    Equal widths (the two towers of a CLIP): mean of the L2-normalised rows of the modalities that the item has.
    Else: centred rows side by side, each modality scaled to a total variance of 1; a missing one stands at its mean, 0.
    """
    parts = list(features.values())
    assert parts, "nothing to fuse"
    present = np.logical_or.reduce([part.present for part in parts])
    if len({part.dim for part in parts}) == 1:
        how, matrix = "mean", _mean_of_directions(parts)
    else:
        how, matrix = "concatenated", np.concatenate([_unit_variance(part) for part in parts], axis=1)
    matrix = np.where(present[:, None], matrix, 0).astype(np.float32)
    return Features(modality, matrix, present, f"{how}({', '.join(part.encoder for part in parts)})")


def _mean_of_directions(parts: list[Features]) -> np.ndarray:
    total = np.zeros(parts[0].matrix.shape)
    for part in parts:
        norm = np.linalg.norm(part.matrix.astype(np.float64), axis=1, keepdims=True)
        total += np.where(part.present[:, None], part.matrix / np.maximum(norm, 1e-12), 0)
    count = np.sum([part.present for part in parts], axis=0)
    return total / np.maximum(count, 1)[:, None]


def _unit_variance(part: Features) -> np.ndarray:
    rows = part.matrix.astype(np.float64)
    centred = rows - rows[part.present].mean(axis=0)
    scale = np.sqrt(centred[part.present].var(axis=0).sum())
    return np.where(part.present[:, None], centred / max(scale, 1e-12), 0)
