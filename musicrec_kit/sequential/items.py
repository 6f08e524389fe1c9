"""How items become vectors: a row of their own, the mean of their codes' rows, or features through an adaptor.

Data in: `Sources`. Data out: a `Catalogue`, made once per step: what histories read, and what states are compared with.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from musicrec_kit.params import SequentialParams
from musicrec_kit.sequential.sources import Attributes, Sources

OWN = "ids"  # the part of a catalogue that is rows of the items' own


class Catalogue(NamedTuple):
    """All items as vectors.

    Attributes:
        read: what a history reads; the last row is padding, all zeros.
        parts: name -> what states are compared with.
        present: name -> whether an item has the part at all; parts that all items have are left out.
    """

    read: Float[Tensor, "rows dim"]
    parts: dict[str, Float[Tensor, "items dim"]]
    present: dict[str, Bool[Tensor, " items"]]


class ItemTable(nn.Module):
    """Items as the sum of what `sequential.vectors` names: `ids`, `codes` (VQ-Rec) and `features` (MISSRec)."""

    rows: Tensor  # of the codes' table, a row each
    coded: Tensor

    def __init__(self, params: SequentialParams, sources: Sources) -> None:
        super().__init__()
        self.n_items, dim = sources.n_items, params.dim
        self.own = (
            nn.Embedding(sources.n_items + 1, dim, padding_idx=sources.n_items) if OWN in params.vectors else None
        )
        self.digits: nn.Embedding | None = None
        self.adaptors = nn.ModuleDict()
        if "codes" in params.vectors:
            assert sources.codes is not None
            self.digits = nn.Embedding(sources.codes.shape[1] * sources.values, dim)
            codes = torch.from_numpy(sources.codes)
            first = torch.arange(codes.shape[1], device=codes.device) * sources.values
            self.register_buffer("rows", codes.clamp(min=0) + first, persistent=False)
            self.register_buffer("coded", (codes >= 0).all(dim=1), persistent=False)
        if "features" in params.vectors:
            for name, (matrix, present) in sources.features.items():
                self.adaptors[name] = Adapted(matrix, present, dim)

    @property
    def n_shown(self) -> int:
        """Return how many parts a catalogue has beside the items' own rows."""
        return (self.digits is not None) + len(self.adaptors)

    def forward(self) -> Catalogue:
        """Return every item's vectors, with gradients."""
        parts: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        if self.digits is not None:
            mean = functional.embedding_bag(self.rows, self.digits.weight, mode="mean")
            parts["codes"], present["codes"] = mean * self.coded[:, None], self.coded
        for name, adapted in self.adaptors.items():
            parts[name], present[name] = adapted(), adapted.present  # type: ignore[assignment]
        present = {name: mask for name, mask in present.items() if not bool(mask.all())}
        read = [with_padding(torch.stack(list(parts.values())).sum(dim=0))] if parts else []
        if self.own is not None:
            read.insert(0, self.own.weight)
            parts[OWN] = self.own.weight[: self.n_items]
        return Catalogue(read[0] if len(read) == 1 else read[0] + read[1], parts, present)


def with_padding(rows: Float[Tensor, "items dim"]) -> Float[Tensor, "items_and_padding dim"]:
    """Return the rows and one of zeros, the padding's."""
    return torch.cat([rows, rows.new_zeros(1, rows.shape[1])])


class Attended(nn.Module):
    """FDSA's feature of an item: the mean of a field's values, then fields weighted by a softmax (its eq. 2 and 3)."""

    def __init__(self, attributes: dict[str, Attributes], dim: int) -> None:
        super().__init__()
        self.names = list(attributes)
        self.values = nn.ModuleDict({name: nn.Embedding(each.size, dim) for name, each in attributes.items()})
        self.score = nn.Linear(dim, 1)
        for name, each in attributes.items():
            self.register_buffer(f"values_{name}", torch.from_numpy(each.values), persistent=False)
            self.register_buffer(f"offsets_{name}", torch.from_numpy(each.offsets), persistent=False)

    def forward(self) -> Float[Tensor, "items dim"]:
        """Return a row per item; zeros for an item without any value."""
        means, has = [], []
        for name in self.names:
            offsets = getattr(self, f"offsets_{name}")
            table: nn.Embedding = self.values[name]  # type: ignore[assignment]
            means.append(
                functional.embedding_bag(
                    getattr(self, f"values_{name}"), table.weight, offsets, mode="mean", include_last_offset=True
                )
            )
            has.append(offsets[1:] > offsets[:-1])
        stacked, there = torch.stack(means, dim=1), torch.stack(has, dim=1)
        scores = self.score(stacked)[..., 0].masked_fill(~there, -1e9)  # with nothing there, the means are zero anyway
        return (scores.softmax(dim=1)[..., None] * stacked).sum(dim=1)


class Adapted(nn.Module):
    """Frozen features through a linear layer: MISSRec's items, and FDSA's second stream without attributes.

    Args:
        matrix: float32 [items, features].
        present: bool [items], whether an item has the modality.
    """

    matrix: Tensor
    present: Tensor

    def __init__(self, matrix: np.ndarray, present: np.ndarray, dim: int) -> None:
        super().__init__()
        self.adaptor = nn.Linear(matrix.shape[1], dim)
        self.register_buffer("matrix", torch.from_numpy(matrix), persistent=False)
        self.register_buffer("present", torch.from_numpy(present), persistent=False)

    def forward(self) -> Float[Tensor, "items dim"]:
        """Return a row per item; zeros for an item that lacks the modality."""
        return self.adaptor(self.matrix) * self.present[:, None]  # type: ignore[no-any-return]


def looked_up(
    rows: Float[Tensor, "rows dim"], tokens: Int[Tensor, "batch history"], padding: int
) -> Float[Tensor, "batch history dim"]:
    """Return the tokens' rows; padding gets no gradient."""
    return functional.embedding(tokens, rows, padding_idx=padding)
