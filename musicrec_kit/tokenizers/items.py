"""The items that a tokenizer reads: all of them as one matrix per modality on the device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from musicrec_kit.params import Refused


@dataclass(frozen=True)
class Items:
    """Features and collaborative vectors of items, row by row.

    Attributes:
        features: modality -> x_m; rows of items that lack the modality are 0 and never read.
        present: modality -> True where the item has it.
        cf: z_cf of each item, or None.
        known: True where z_cf exists (the item is in the training part); False rows stay out of both CF losses.
    """

    features: dict[str, Float[Tensor, "items _"]]
    present: dict[str, Bool[Tensor, " items"]]
    cf: Float[Tensor, "items cf"] | None = None
    known: Bool[Tensor, " items"] | None = None

    @classmethod
    def of(
        cls,
        features: Mapping[str, np.ndarray],
        present: Mapping[str, np.ndarray],
        vectors: Any | None = None,
        device: str = "cpu",
    ) -> "Items":
        """Put matrices on the device; `vectors` has `.vectors` and `.present` (the CF stage's result) or is None."""
        masks = {name: torch.tensor(np.asarray(mask, bool), device=device) for name, mask in present.items()}
        rows = {name: torch.tensor(np.asarray(matrix, np.float32), device=device) for name, matrix in features.items()}
        rows = {name: torch.where(masks[name][:, None], matrix, 0.0) for name, matrix in rows.items()}
        if vectors is None:
            return cls(rows, masks)
        cf = torch.tensor(np.asarray(vectors.vectors, np.float32), device=device)
        return cls(rows, masks, cf, torch.tensor(np.asarray(vectors.present, bool), device=device))

    def __len__(self) -> int:
        return len(next(iter(self.features.values())))

    def take(self, index: Int[Tensor, " batch"] | Bool[Tensor, " items"]) -> "Items":
        """Return the items at `index`."""
        return Items(
            {name: matrix[index] for name, matrix in self.features.items()},
            {name: mask[index] for name, mask in self.present.items()},
            None if self.cf is None else self.cf[index],
            None if self.known is None else self.known[index],
        )

    def with_modality(self, name: str) -> "Items":
        """Return only the items that have a modality, and only that modality."""
        rows = self.take(self.present[name])
        return Items({name: rows.features[name]}, {name: rows.present[name]}, rows.cf, rows.known)


def as_fitted(name: str, matrix: np.ndarray, dims: Mapping[str, int]) -> np.ndarray:
    """Return features float32 [items, dim] of one modality, if a tokenizer fitted on `dims` can read them.

    Raises:
        Refused: the modality is unknown, or the matrix has another width than in training.
    """
    matrix = np.asarray(matrix, np.float32)
    if name not in dims:
        raise Refused(f"modality {name!r} is not one of this tokenizer's: {', '.join(dims)}")
    if matrix.ndim != 2 or matrix.shape[1] != dims[name]:
        raise Refused(
            f"features of {name} have shape {matrix.shape}, the tokenizer was fitted on {dims[name]} columns; "
            "extract them with the same encoder"
        )
    return matrix
