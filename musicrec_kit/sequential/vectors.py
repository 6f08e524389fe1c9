"""z_cf: what the sequential model knows about each item (MusicRec section 3.2: "pre-trained SASRec", 32-d)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musicrec_kit import runs

FILE = "item_vectors.safetensors"


@dataclass(frozen=True)
class ItemVectors:
    """Collaborative vectors of the items.

    Attributes:
        vectors: float32 [items, dim]; zero rows where not present.
        present: bool [items]; whether training saw the item. Losses on z_cf leave the others out (lineage.md row 16).
    """

    vectors: np.ndarray
    present: np.ndarray

    def __post_init__(self) -> None:
        assert self.vectors.dtype == np.float32 and self.vectors.ndim == 2, (self.vectors.dtype, self.vectors.shape)
        assert self.present.dtype == np.bool_ and self.present.shape == self.vectors.shape[:1], self.present.shape

    def save(self, folder: Path) -> Path:
        """Write `item_vectors.safetensors` and return its path."""
        runs.write_tensors(folder / FILE, {"vectors": self.vectors, "present": self.present})
        return folder / FILE

    @classmethod
    def load(cls, folder: Path) -> "ItemVectors":
        """Read what `save` wrote."""
        return cls(**runs.read_tensors(folder / FILE))
