"""The result of stage 03: every item's codes."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musicrec_kit import runs

FILE = "codes.safetensors"


@dataclass(frozen=True)
class ItemCodes:
    """Codes of every item per stream (= modality), before collisions are resolved.

    Attributes:
        codes: stream -> int32 [items, levels]; -1 in every level where the item lacks the modality and the tokenizer
            gives no code.
        sizes: stream -> codes per level.
        shared_levels: number of first levels that are equal in all streams; 0 for separate tokenizers.
        distances: stream -> (items int64 [m], squared distances float32 [m, levels, codes]) for the m items whose full
            code in the stream collides, each along the item's own residual chain.
    """

    codes: dict[str, np.ndarray]
    sizes: dict[str, tuple[int, ...]]
    shared_levels: int = 0
    distances: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def n_items(self) -> int:
        """Return the number of items, with or without codes."""
        return len(next(iter(self.codes.values())))

    def save(self, folder: Path) -> None:
        """Write `codes.safetensors`."""
        tensors = {f"codes/{name}": codes for name, codes in self.codes.items()}
        for name, (items, values) in self.distances.items():
            tensors[f"distances/{name}/items"] = items
            tensors[f"distances/{name}/values"] = values
        about = {"sizes": self.sizes, "shared_levels": self.shared_levels}
        runs.write_tensors(folder / FILE, tensors, {"item_codes": json.dumps(about)})

    @classmethod
    def load(cls, folder: Path) -> "ItemCodes":
        """Read what `save` wrote."""
        tensors = runs.read_tensors(folder / FILE)
        about = json.loads(runs.read_tensor_metadata(folder / FILE)["item_codes"])
        streams = list(about["sizes"])  # the order in which they were given
        pairs = {
            name: (tensors[f"distances/{name}/items"], tensors[f"distances/{name}/values"])
            for name in streams
            if f"distances/{name}/items" in tensors
        }
        sizes = {name: tuple(size) for name, size in about["sizes"].items()}
        return cls({name: tensors[f"codes/{name}"] for name in streams}, sizes, about["shared_levels"], pairs)
