"""What a source holds besides rows of tokens: which item of the history each token belongs to (whole-word embeddings,
P5, Geng et al. 2022), and tokens made of the items' pictures (VIP5, Geng et al. 2023)."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from musicrec_kit.features.store import Features
from musicrec_kit.generation.layers import RMSNorm

NO_PICTURE = -1


class Source(NamedTuple):
    """A batch of sources.

    Attributes:
        tokens: padded on the right.
        words: the number of the item that a token belongs to, from 1 for the oldest; 0 for tokens of no item.
        pictures: item * visual tokens + j where the j-th visual token of an item stands; NO_PICTURE elsewhere.
    """

    tokens: Int[Tensor, "batch source"]
    words: Int[Tensor, "batch source"]
    pictures: Int[Tensor, "batch source"]


class Marks(nn.Module):
    """Embeddings that are added to the rows of a source's tokens, or stand in their place.

    Attributes:
        visual: tokens of a picture; 0 for none.
        vectors, present: the pictures' features, and which items have a picture.
    """

    vectors: Float[Tensor, "items width"]
    present: Bool[Tensor, " items"]

    def __init__(self, dim: int, words: int = 0, visual: int = 0, pictures: Features | None = None) -> None:
        super().__init__()
        self.dim, self.visual = dim, visual
        self.words = nn.Embedding(words + 1, dim) if words else None
        if visual:
            assert pictures is not None, "visual tokens without pictures"
            self.register_buffer("vectors", torch.tensor(pictures.matrix))
            self.register_buffer("present", torch.tensor(pictures.present))
            self.inner = nn.Linear(pictures.dim, dim * visual // 2)
            self.outer = nn.Linear(dim * visual // 2, dim * visual)
            self.norm = RMSNorm(dim * visual)
            self.kinds = nn.Embedding(2, dim)  # VIP5's categories: text, picture
            for layer in (self.inner, self.outer):
                nn.init.zeros_(layer.bias)

    @classmethod
    def of(cls, dim: int, words: int, visual: int, pictures: Features | None) -> "Marks | None":
        """Return the marks of a model, or None where it has none."""
        return cls(dim, words, visual, pictures) if words or visual else None

    def forward(self, rows: Float[Tensor, "batch source dim"], source: Source) -> Float[Tensor, "batch source dim"]:
        """Return the rows with pictures in their places, and with what is added to them."""
        if self.visual:
            here = source.pictures != NO_PICTURE
            items, back = torch.unique(source.pictures[here] // self.visual, return_inverse=True)
            shown = self.picture(self.vectors[items])[back, source.pictures[here] % self.visual]
            rows = rows.masked_scatter(here[..., None], shown.to(rows.dtype)) + self.kinds(here.long())
        return rows if self.words is None else rows + self.words(source.words)

    def picture(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items visual dim"]:
        """Return the visual tokens of pictures: two linear layers with tanh between them, normed together."""
        return self.norm(self.outer(self.inner(vectors).tanh())).unflatten(-1, (self.visual, self.dim))

    def show(self, matrix: np.ndarray | None, present: np.ndarray | None, n_new: int) -> None:
        """Append the pictures of new items [new, width]; None: they have none."""
        if self.visual:
            new = self.vectors.new_zeros(n_new, self.vectors.shape[1])
            there = self.present.new_zeros(n_new)
            if matrix is not None and present is not None:
                new, there = torch.from_numpy(matrix).to(new), torch.from_numpy(present).to(there)
            self.vectors, self.present = torch.cat([self.vectors, new]), torch.cat([self.present, there])
